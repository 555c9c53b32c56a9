// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"fmt"
	"slices"
	"strings"
)

// field is what the API server must accept and refuse at one place of an otherwise valid object.
type field struct {
	path string
	// with are values elsewhere that the accepted ones need.
	with map[string]any
	// accepted are values at the edges of what is allowed.
	accepted []any
	// refused is, per constraint, a value that violates it: a key of builtIn, or the message of a CEL rule.
	refused map[string]any
}

// missing is the absence of a value.
var missing = new(struct{})

const (
	badKeyMessage = "nodes.selector.matchLabels has a key that is not a label key (an optional DNS prefix and a slash, " +
		"then at most 63 letters, digits, '-', '_' and '.')"
	longPrefixMessage = "the prefix of a label key has at most 253 characters"
	badValuesMessage  = "nodes.selector.matchExpressions: values must be given with the operators In and NotIn, " +
		"and must be left out with Exists and DoesNotExist"
	warnMessage    = "expiry.warnAtLifetimePercent must be less than expiry.overdueAtLifetimePercent"
	timeoutMessage = "nodes.probe.timeout must be at most nodes.probe.interval"
	minimumMessage = "nodes.servingCertificate.minimumKubeletVersion and minimumNodeImageVersion explain why label is missing: " +
		"give label, too, and rotation Required, or leave them out"

	moment = "2026-01-01T00:00:00Z"
	// overlong is a duration with more characters than any needs, and otherwise well-formed.
	overlong = "00001.000h00001.000h00001.000h1.000s"
)

// text returns a string of that many letters.
func text(length int) string { return strings.Repeat("a", length) }

// list returns a list of that many items.
func list(length int, item func(i int) any) []any {
	items := make([]any, 0, length)
	for i := range length {
		items = append(items, item(i))
	}
	return items
}

// same is an item that is the same in all places.
func same(item any) func(int) any { return func(int) any { return item } }

// labels returns a map of that many labels.
func labels(length int) map[string]any {
	m := map[string]any{}
	for i := range length {
		m[fmt.Sprint("key-", i)] = "value"
	}
	return m
}

func requirement(key, operator string, values ...any) map[string]any {
	r := map[string]any{"key": key, "operator": operator}
	if len(values) > 0 {
		r["values"] = values
	}
	return r
}

// validSpec has every field of a CertificatePolicySpec.
var validSpec = map[string]any{
	"expiry": validExpiry,
	"nodes": map[string]any{
		"expiry": validExpiry,
		"selector": map[string]any{
			"matchLabels":      map[string]any{anyKey: "web"},
			"matchExpressions": []any{requirement("example.com/zone", "In", "a")},
		},
		"servingCertificate": map[string]any{
			"rotation":                "Required",
			"label":                   validLabel,
			"minimumKubeletVersion":   "1.27",
			"minimumNodeImageVersion": "202501.12.0",
		},
		"clientCertificate":   map[string]any{"rotation": "Required"},
		"staticServingMounts": "Watched",
		"bootstrapTokens":     map[string]any{"mode": "Ignored", "warnBefore": "24h"},
		"signingRequests":     map[string]any{"pendingTimeout": "5m", "issueTimeout": "2m"},
		"probe":               map[string]any{"interval": "10m", "timeout": "5s"},
	},
	"controlPlane": map[string]any{
		"expiry": validExpiry, "clusterCA": "Watched", "apiServer": "Watched", "clientCA": "Watched", "aggregation": "Watched",
	},
	"trustBundles": map[string]any{"apiServices": "Watched", "webhooks": "Watched", "conversionWebhooks": "Watched"},
	"signingRequestApproval": map[string]any{
		"mode": "Approve", "onViolation": "Ignore", "allowedIPRanges": []any{"10.0.0.0/8"},
		"allowedDNSSuffixes": []any{"example.com"}, "dnsResolution": "Required", "dnsTimeout": "5s", "maximumDuration": "8760h",
		"maximumDecisionsPerNode": int64(12), "maximumPendingNodes": int64(100),
	},
}

var validLabel = map[string]any{"key": "kubernetes.azure.com/kubelet-serving-ca", "value": "cluster"}

var validExpiry = map[string]any{
	"warnAtLifetimePercent": int64(80), "overdueAtLifetimePercent": int64(90), "minimumRemaining": "24h",
}

// expiry are the fields of an ExpirySpec.
func expiry(path string) []field {
	return []field{
		{path: path, refused: map[string]any{
			warnMessage: map[string]any{"warnAtLifetimePercent": int64(90), "overdueAtLifetimePercent": int64(90)},
		}, accepted: []any{
			map[string]any{"warnAtLifetimePercent": int64(89), "overdueAtLifetimePercent": int64(90)}, map[string]any{}, missing,
		}},
		{path: path + ".warnAtLifetimePercent",
			with:     map[string]any{path + ".overdueAtLifetimePercent": int64(100)},
			accepted: []any{int64(1), int64(99), missing},
			refused:  map[string]any{"minimum": int64(0), "maximum": int64(100)}},
		{path: path + ".overdueAtLifetimePercent",
			with:     map[string]any{path + ".warnAtLifetimePercent": int64(1)},
			accepted: []any{int64(2), int64(100), missing},
			refused:  map[string]any{"minimum": int64(1), "maximum": int64(101)}},
		{path: path + ".minimumRemaining",
			accepted: []any{"0s", "1h30m", "1.5h", "1500ms", "604800s", "87600h", missing},
			refused: map[string]any{
				"pattern": "1d", "maxLength": overlong,
				"expiry.minimumRemaining must be at most 87600h (ten years)": "87601h",
			}},
	}
}

// watched is an optional field that says whether something is judged.
func watched(path string) field {
	return field{path: path, accepted: []any{"Watched", "Ignored", missing}, refused: map[string]any{"enum": "Yes"}}
}

// withoutMinimums leaves out what needs the label, and rotation Required.
var withoutMinimums = map[string]any{
	"spec.nodes.servingCertificate.minimumKubeletVersion":   missing,
	"spec.nodes.servingCertificate.minimumNodeImageVersion": missing,
}

var specFields = slices.Concat(approvalFields, expiry("spec.expiry"), expiry("spec.nodes.expiry"), expiry("spec.controlPlane.expiry"), []field{
	watched("spec.controlPlane.clusterCA"), watched("spec.controlPlane.apiServer"),
	watched("spec.controlPlane.clientCA"), watched("spec.controlPlane.aggregation"),
	watched("spec.trustBundles.apiServices"), watched("spec.trustBundles.webhooks"),
	watched("spec.trustBundles.conversionWebhooks"),
	watched("spec.nodes.staticServingMounts"), watched("spec.nodes.bootstrapTokens.mode"),
	{path: "spec.nodes.clientCertificate.rotation",
		accepted: []any{"Required", "Ignored", missing},
		refused:  map[string]any{"enum": "Disabled"}},
	{path: "spec.nodes.bootstrapTokens.warnBefore",
		accepted: []any{"0s", "90m", "8760h", missing},
		refused: map[string]any{
			"pattern": "1d", "maxLength": overlong,
			"nodes.bootstrapTokens.warnBefore must be at most 8760h (a year)": "8761h",
		}},

	{path: "spec.nodes.selector.matchLabels",
		accepted: []any{
			map[string]any{}, map[string]any{"a": ""}, map[string]any{text(253) + "/" + text(63): text(63)}, labels(32), missing,
		},
		refused: map[string]any{"maxProperties": labels(33), badKeyMessage: map[string]any{"no spaces": "value"}}},
	{path: "spec.nodes.selector.matchLabels." + anyKey,
		accepted: []any{"", "a", "A-b_c.9"},
		refused:  map[string]any{"pattern": "-a", "maxLength": text(64)}},
	{path: "spec.nodes.selector.matchExpressions",
		accepted: []any{[]any{}, list(32, same(requirement("a", "Exists"))), missing},
		refused:  map[string]any{"maxItems": list(33, same(requirement("a", "Exists")))}},
	{path: "spec.nodes.selector.matchExpressions[0]",
		accepted: []any{
			requirement("a", "In", "b"), requirement("a", "NotIn", "b"), requirement("a", "Exists"), requirement("a", "DoesNotExist"),
		},
		refused: map[string]any{badValuesMessage: requirement("a", "In")}},
	{path: "spec.nodes.selector.matchExpressions[0].key",
		accepted: []any{"a", "example.com/a", text(253) + "/" + text(63)},
		refused: map[string]any{
			"pattern": "a..b/c", "minLength": "", "maxLength": text(254) + "/" + text(63),
			longPrefixMessage: text(254) + "/a", "required": missing,
		}},
	{path: "spec.nodes.selector.matchExpressions[0].operator",
		accepted: []any{"In", "NotIn"},
		refused:  map[string]any{"enum": "Equals", "required": missing}},
	{path: "spec.nodes.selector.matchExpressions[0].values",
		accepted: []any{list(64, same("a"))},
		refused:  map[string]any{"maxItems": list(65, same("a"))}},
	{path: "spec.nodes.selector.matchExpressions[0].values[0]",
		accepted: []any{"", text(63)},
		refused:  map[string]any{"pattern": "a b", "maxLength": text(64)}},

	{path: "spec.nodes.servingCertificate",
		accepted: []any{
			map[string]any{"label": validLabel, "minimumKubeletVersion": "1.27"},
			map[string]any{"rotation": "Ignored", "label": validLabel}, map[string]any{}, missing,
		},
		refused: map[string]any{minimumMessage: map[string]any{"minimumKubeletVersion": "1.27"}}},
	{path: "spec.nodes.servingCertificate.rotation", with: withoutMinimums,
		accepted: []any{"Required", "Disabled", "Ignored", missing},
		refused:  map[string]any{"enum": "required"}},
	{path: "spec.nodes.servingCertificate.label", with: withoutMinimums, accepted: []any{validLabel, missing}},
	{path: "spec.nodes.servingCertificate.label.key",
		accepted: []any{"a", text(253) + "/" + text(63)},
		refused: map[string]any{
			"pattern": "/a", "minLength": "", "maxLength": text(254) + "/" + text(63),
			longPrefixMessage: text(254) + "/a", "required": missing,
		}},
	{path: "spec.nodes.servingCertificate.label.value",
		accepted: []any{"a", text(63)},
		refused:  map[string]any{"pattern": "a/b", "minLength": "", "maxLength": text(64), "required": missing}},
	{path: "spec.nodes.servingCertificate.minimumKubeletVersion",
		accepted: []any{"1.0", "1.27", "v1.27.3", missing},
		refused:  map[string]any{"pattern": "1.27.x", "minLength": "1", "maxLength": "1." + strings.Repeat("0", 31)}},
	{path: "spec.nodes.servingCertificate.minimumNodeImageVersion",
		accepted: []any{"202501.1.0", "202501.01.0", "202512.31.9999", missing},
		refused: map[string]any{
			"pattern": "202513.01.0", "minLength": "1.0", "maxLength": "202501.12." + strings.Repeat("0", 23),
		}},

	{path: "spec.nodes.signingRequests.pendingTimeout",
		accepted: []any{"1s", "24h", missing},
		refused: map[string]any{
			"pattern": "-5m", "maxLength": overlong,
			"nodes.signingRequests.pendingTimeout must be between 1s and 24h": "999ms",
		}},
	{path: "spec.nodes.signingRequests.issueTimeout",
		accepted: []any{"1s", "24h", missing},
		refused: map[string]any{
			"pattern": "2", "maxLength": overlong,
			"nodes.signingRequests.issueTimeout must be between 1s and 24h": "24h1s",
		}},
	{path: "spec.nodes.probe",
		accepted: []any{map[string]any{"interval": "1m", "timeout": "1m"}, missing},
		refused:  map[string]any{timeoutMessage: map[string]any{"interval": "10s", "timeout": "11s"}}},
	{path: "spec.nodes.probe.interval",
		accepted: []any{"10s", "24h", missing},
		refused: map[string]any{
			"pattern": "10 m", "maxLength": overlong,
			"nodes.probe.interval must be between 10s and 24h": "9999ms",
		}},
	{path: "spec.nodes.probe.timeout",
		accepted: []any{"100ms", "1m", missing},
		refused: map[string]any{
			"pattern": "5", "maxLength": overlong,
			"nodes.probe.timeout must be between 100ms and 1m": "99ms",
		}},
})

// validPolicyStatus has every field of a CertificatePolicyStatus.
var validPolicyStatus = map[string]any{
	"observedGeneration": int64(1),
	"conditions":         []any{condition(0)},
	"nodes":              map[string]any{"selected": int64(0), "compliant": int64(0), "violating": int64(0), "unknown": int64(0)},
	"certificates": map[string]any{
		"total": int64(0), "current": int64(0), "rotationDue": int64(0),
		"overdue": int64(0), "expired": int64(0), "unknown": int64(0),
	},
	"controlPlane":    []any{validControlPlaneCertificate},
	"nextExpiration":  map[string]any{"certificate": "KubeletServing", "node": "node-1", "notAfter": moment},
	"findings":        []any{validFinding},
	"omittedFindings": int64(1),
}

var validFinding = map[string]any{
	"reason": "Expired", "severity": "Violation", "subject": map[string]any{"kind": "Node", "name": "node-1"},
	"certificate": "KubeletClient", "message": "It expired.", "since": moment, "notAfter": moment,
	"runbookURL": "https://example.com/Expired.md",
}

var validControlPlaneCertificate = map[string]any{
	"purpose": "ClusterCA", "source": "kube-system/kube-root-ca.crt", "subject": "CN=a", "issuer": "CN=b",
	"serialNumber": "1f", "sha256": text(64), "notBefore": moment, "notAfter": moment,
}

var purposes = []any{
	"KubeletServing", "KubeletClient", "ClusterCA", "APIServer", "ClientCA", "AggregationCA", "ClusterTrustBundle",
	"APIServiceCA", "WebhookCA", "ConversionWebhookCA",
}

var subjectKinds = []any{
	"Node", "NodePool", "CertificateSigningRequest", "ConfigMap", "Secret", "APIServer", "APIService", "ClusterTrustBundle",
	"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "CustomResourceDefinition",
	"DaemonSet", "Deployment", "StatefulSet", "Permission", "CertificatePolicy",
}

func condition(i int) any {
	return map[string]any{
		"type": fmt.Sprint("Type", i), "status": "True", "reason": "AsExpected", "message": "", "lastTransitionTime": moment,
	}
}

// count is a required number that is not negative.
func count(path string) field {
	return field{path: path, accepted: []any{int64(0)}, refused: map[string]any{"minimum": int64(-1), "required": missing}}
}

// required is a field that must be there.
func required(path string) field {
	return field{path: path, refused: map[string]any{"required": missing}}
}

// bounded is an optional string of 1 to so many characters.
func bounded(path string, maxLength int) field {
	return field{path: path, accepted: []any{text(1), text(maxLength), missing},
		refused: map[string]any{"minLength": "", "maxLength": text(maxLength + 1)}}
}

// boundedRequired is a required string of 1 to so many characters.
func boundedRequired(path string, maxLength int) field {
	return field{path: path, accepted: []any{text(1), text(maxLength)},
		refused: map[string]any{"minLength": "", "maxLength": text(maxLength + 1), "required": missing}}
}

// fingerprint is a required SHA-256 in hexadecimal.
func fingerprint(path string) field {
	return field{path: path, accepted: []any{text(64)},
		refused: map[string]any{"minLength": text(63), "maxLength": text(65), "required": missing}}
}

// oneOf is a required string that is one of some.
func oneOf(path string, values ...any) field {
	return field{path: path, accepted: values, refused: map[string]any{"enum": "Nonsense", "required": missing}}
}

var policyStatusFields = []field{
	{path: "status.conditions",
		accepted: []any{list(16, condition), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(17, condition)}},
	count("status.nodes.selected"), count("status.nodes.compliant"), count("status.nodes.violating"), count("status.nodes.unknown"),
	count("status.certificates.total"), count("status.certificates.current"), count("status.certificates.rotationDue"),
	count("status.certificates.overdue"), count("status.certificates.expired"), count("status.certificates.unknown"),
	{path: "status.controlPlane",
		accepted: []any{list(64, same(validControlPlaneCertificate)), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(65, same(validControlPlaneCertificate))}},
	oneOf("status.controlPlane[0].purpose", purposes...),
	boundedRequired("status.controlPlane[0].source", 317),
	bounded("status.controlPlane[0].subject", 256),
	bounded("status.controlPlane[0].issuer", 256),
	bounded("status.controlPlane[0].serialNumber", 64),
	fingerprint("status.controlPlane[0].sha256"),
	required("status.controlPlane[0].notBefore"),
	required("status.controlPlane[0].notAfter"),
	oneOf("status.nextExpiration.certificate", purposes...),
	bounded("status.nextExpiration.node", 253),
	required("status.nextExpiration.notAfter"),
	{path: "status.findings",
		accepted: []any{list(100, same(validFinding)), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(101, same(validFinding))}},
	boundedRequired("status.findings[0].reason", 64),
	oneOf("status.findings[0].severity", "Violation", "Unknown", "Info"),
	required("status.findings[0].subject"),
	oneOf("status.findings[0].subject.kind", subjectKinds...),
	boundedRequired("status.findings[0].subject.name", 317),
	{path: "status.findings[0].certificate",
		accepted: append([]any{missing}, purposes...),
		refused:  map[string]any{"enum": "Nonsense"}},
	boundedRequired("status.findings[0].message", 1024),
	bounded("status.findings[0].runbookURL", 256),
	{path: "status.omittedFindings", accepted: []any{int64(1), missing}, refused: map[string]any{"minimum": int64(0)}},
}

// setting is a setting of the kubelet, on, off or not known.
func setting(path string) field {
	return field{path: path, accepted: []any{"Enabled", "Disabled", missing}, refused: map[string]any{"enum": "true"}}
}

// validNodeStatus has every field of a NodeCertificatesStatus.
var validNodeStatus = map[string]any{
	"serving": map[string]any{
		"mode": "ClusterSigned", "outcome": "CertificatePresented", "address": "10.0.0.1:10250", "nameMatch": "Match",
		"message": "It is so.", "since": moment,
	},
	"kubelet": map[string]any{
		"outcome": "Read", "message": "It is so.", "missingPermissions": []any{"get nodes/configz"}, "since": moment, "clientRotation": "Enabled", "servingBootstrap": "Disabled",
		"tlsCertFile": "/etc/kubernetes/certs/kubeletserver.crt", "clientExpires": moment,
		"clientRenewal":  map[string]any{"errors": int64(1), "rose": moment},
		"servingRenewal": map[string]any{"errors": int64(0)},
	},
	"certificates": []any{map[string]any{
		"purpose": "KubeletServing", "source": "Handshake", "subject": "CN=a", "issuer": "CN=b", "serialNumber": "1f",
		"sha256": text(64), "notBefore": moment, "notAfter": moment,
		"dnsNames": []any{"node-1"}, "ipAddresses": []any{"10.0.0.1"},
	}},
	"signingRequests": []any{signingRequest("kubernetes.io/kubelet-serving")},
}

func signingRequest(signerName string) map[string]any {
	return map[string]any{
		"signerName": signerName, "name": "csr-1", "stage": "Pending", "created": moment,
		"decided": moment, "issued": moment, "malformed": "It is.", "pending": int64(1), "pendingSince": moment,
		"refusal": map[string]any{"name": "csr-0", "stage": "Denied", "reason": "No", "message": "No.", "time": moment},
	}
}

var stages = []any{"Pending", "Approved", "Issued", "Denied", "Failed", "Deleted"}

// certificates returns so many, of different purposes and sources as far as there are some.
func certificates(length int) []any {
	sources := []string{"Handshake", "SigningRequest"}
	return list(length, func(i int) any {
		return map[string]any{
			"purpose": purposes[i%2], "source": sources[i/2%2], "sha256": text(64), "notBefore": moment, "notAfter": moment,
		}
	})
}

var nodeStatusFields = []field{
	oneOf("status.serving.mode", "ClusterSigned", "SelfSigned", "ExternallyManaged", "None", "Unknown"),
	oneOf("status.serving.outcome", "CertificatePresented", "NoCertificate", "Unreachable", "HandshakeFailed", "NoAddress"),
	bounded("status.serving.address", 64),
	{path: "status.serving.nameMatch",
		accepted: []any{"Match", "Mismatch", missing},
		refused:  map[string]any{"enum": "Nonsense"}},
	bounded("status.serving.message", 512),
	required("status.serving.since"),

	oneOf("status.kubelet.outcome", "Read", "AccessDenied", "Unverified", "Failed", "NotAsked"),
	bounded("status.kubelet.message", 512),
	{path: "status.kubelet.missingPermissions",
		accepted: []any{list(2, same("get nodes/metrics")), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(3, same("a"))}},
	{path: "status.kubelet.missingPermissions[0]",
		accepted: []any{text(1), text(253)},
		refused:  map[string]any{"minLength": "", "maxLength": text(254)}},
	required("status.kubelet.since"),
	setting("status.kubelet.clientRotation"),
	setting("status.kubelet.servingBootstrap"),
	bounded("status.kubelet.tlsCertFile", 256),
	count("status.kubelet.clientRenewal.errors"),
	count("status.kubelet.servingRenewal.errors"),

	{path: "status.certificates",
		accepted: []any{certificates(4), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": certificates(9)}},
	oneOf("status.certificates[0].purpose", purposes...),
	oneOf("status.certificates[0].source", "Handshake", "SigningRequest"),
	bounded("status.certificates[0].subject", 256),
	bounded("status.certificates[0].issuer", 256),
	bounded("status.certificates[0].serialNumber", 64),
	fingerprint("status.certificates[0].sha256"),
	required("status.certificates[0].notBefore"),
	required("status.certificates[0].notAfter"),
	{path: "status.certificates[0].dnsNames",
		accepted: []any{list(256, same("a")), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(257, same("a"))}},
	{path: "status.certificates[0].dnsNames[0]",
		accepted: []any{"", text(253)},
		refused:  map[string]any{"maxLength": text(254)}},
	{path: "status.certificates[0].ipAddresses",
		accepted: []any{list(256, same("::")), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(257, same("::"))}},
	{path: "status.certificates[0].ipAddresses[0]",
		accepted: []any{"::", text(45)},
		refused:  map[string]any{"minLength": "1", "maxLength": text(46)}},

	{path: "status.signingRequests",
		accepted: []any{list(4, distinctSigner), missing},
		refused:  map[string]any{"minItems": []any{}, "maxItems": list(5, distinctSigner)}},
	boundedRequired("status.signingRequests[0].signerName", 128),
	boundedRequired("status.signingRequests[0].name", 253),
	oneOf("status.signingRequests[0].stage", stages...),
	required("status.signingRequests[0].created"),
	bounded("status.signingRequests[0].malformed", 512),
	{path: "status.signingRequests[0].pending",
		accepted: []any{int64(1), missing},
		refused:  map[string]any{"minimum": int64(0)}},
	boundedRequired("status.signingRequests[0].refusal.name", 253),
	oneOf("status.signingRequests[0].refusal.stage", stages...),
	bounded("status.signingRequests[0].refusal.reason", 128),
	bounded("status.signingRequests[0].refusal.message", 512),
	required("status.signingRequests[0].refusal.time"),
}

func distinctSigner(i int) any { return signingRequest(fmt.Sprint("example.com/signer-", i)) }
