{{- define "text" -}}
{{- . | trim | replace "\n" " " | replace "|" "\\|" -}}
{{- end -}}
{{- define "limits" -}}
{{- $first := true -}}
{{- range . -}}
{{- if not (hasPrefix "Optional:" .) -}}
{{- if not $first }}, {{ end -}}
{{- $first = false -}}
{{- if hasPrefix "Required:" . -}}
required
{{- else if hasPrefix "Pattern:" . -}}
`{{ . | trimPrefix "Pattern:" | trim | trimAll "`" | replace "|" "\\|" }}`
{{- else -}}
{{- . | replace "[" "" | replace "]" "" | replace "|" "\\|" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
