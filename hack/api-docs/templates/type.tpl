{{- define "type" }}
## {{ .Name }}

{{ .Doc }}
{{- if .References }}

Used by
{{- range $i, $user := .SortedReferences }}{{ if $i }},{{ end }} {{ markdownRenderTypeLink $user }}{{ end }}.
{{- end }}
{{- if and .Validation (not .EnumValues) }}

Limits: {{ template "limits" .Validation }}.
{{- end }}
{{- if .Members }}

| Field | Type | Default | Limits | Description |
| --- | --- | --- | --- | --- |
{{- if .GVK }}
| `apiVersion` | string | | | `{{ .GVK.Group }}/{{ .GVK.Version }}` |
| `kind` | string | | | `{{ .GVK.Kind }}` |
{{- end }}
{{- range .Members }}
| `{{ .Name }}` | {{ markdownRenderType .Type }} | {{ with .Default }}`{{ . | replace "{  }" "{}" | replace "{ " "{" | replace " }" "}" }}`{{ end }} | {{ template "limits" .Validation }} | {{ template "text" .Doc }} |
{{- end }}
{{- end }}
{{- if .EnumValues }}

| Value | Meaning |
| --- | --- |
{{- range .EnumValues }}
| `{{ .Name }}` | {{ template "text" .Doc }} |
{{- end }}
{{- end }}
{{ end -}}
