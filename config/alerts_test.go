// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/notafter/notafter/api/v1alpha1"
	"github.com/notafter/notafter/hack/prometheus"
)

const (
	prometheusDir = "components/prometheus"
	docsAddress   = "https://github.com/notafter/notafter/blob/main/docs/"
)

// notAlerted are the reasons of findings that no alert is for: they inform.
var notAlerted = []string{
	v1alpha1.ReasonApprovalPoliciesDisagree, v1alpha1.ReasonIssuerExpiresFirst, v1alpha1.ReasonRotationDue,
}

type alert struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// aboutFindings is what the expression of an alert about findings looks like.
var aboutFindings = regexp.MustCompile(
	`^max without \(instance, pod, severity\) \(notafter_finding_info\{reason(=~?)"([^"]+)"\}\) > 0$`)

// reasons are the known reasons that the alert is for; none if it is not about findings.
func (a *alert) reasons(t *testing.T, known []string) []string {
	t.Helper()
	match := aboutFindings.FindStringSubmatch(a.Expr)
	if match == nil {
		return nil
	}
	pattern := match[2]
	if match[1] == "=" {
		pattern = regexp.QuoteMeta(pattern)
	}
	selects := regexp.MustCompile("^(?:" + pattern + ")$") // as Prometheus does
	var reasons []string
	for _, reason := range known {
		if selects.MatchString(reason) {
			reasons = append(reasons, reason)
		}
	}
	if alternatives := strings.Count(pattern, "|") + 1; len(reasons) != alternatives {
		t.Errorf("%s selects %v, which are %d reasons for %d alternatives in %q", a.Alert, reasons, len(reasons), alternatives, pattern)
	}
	return reasons
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []alert `json:"rules"`
		} `json:"groups"`
	}
	readYAML(t, filepath.Join(prometheusDir, "alerts.yaml"), &file)
	var all []alert
	for _, group := range file.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no alerts found")
	}
	return all
}

// findingReasons are the reasons of findings, with their severity. The API's own tests compare this index with the constants.
func findingReasons(t *testing.T) map[string]string {
	t.Helper()
	index, err := os.ReadFile("../docs/runbooks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| \[(\w+)\]\(\w+\.md\) \| (\w+) \|`).FindAllStringSubmatch(string(index), -1) {
		reasons[row[1]] = row[2]
	}
	return reasons
}

// Whoever adds a reason adds it to an alert, or says here that it only informs.
func TestEveryReasonHasAnAlert(t *testing.T) {
	severities := findingReasons(t)
	known := slices.Sorted(maps.Keys(severities))
	covered := map[string]string{}
	for _, a := range alerts(t) {
		for _, reason := range a.reasons(t, known) {
			if covered[reason] != "" {
				t.Errorf("%s has two alerts, %s and %s", reason, covered[reason], a.Alert)
			}
			covered[reason] = a.Alert
		}
	}
	for _, reason := range known {
		informs := slices.Contains(notAlerted, reason)
		switch {
		case informs != (severities[reason] == string(v1alpha1.SeverityInfo)):
			t.Errorf("%s is %s, so notAlerted is wrong about it", reason, severities[reason])
		case informs && covered[reason] != "":
			t.Errorf("%s informs, and %s alerts of it", reason, covered[reason])
		case !informs && covered[reason] == "":
			t.Errorf("no alert in config/%s/alerts.yaml is for the reason %s", prometheusDir, reason)
		}
	}
}

func TestAlertsSayWhatAndWhere(t *testing.T) {
	monitoring, err := os.ReadFile("../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	known := slices.Sorted(maps.Keys(findingReasons(t)))
	for _, a := range alerts(t) {
		if !slices.Contains([]string{"critical", "warning"}, a.Labels["severity"]) {
			t.Errorf("%s has the severity %q", a.Alert, a.Labels["severity"])
		}
		if a.For == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s lacks one of for, summary and description", a.Alert)
		}
		if !strings.Contains(string(monitoring), "`"+a.Alert+"`") {
			t.Errorf("docs/monitoring.md does not mention %s", a.Alert)
		}
		runbook := docsAddress + "runbooks/{{ $labels.reason }}.md"
		if a.reasons(t, known) == nil {
			runbook = docsAddress + "monitoring.md#" + strings.ToLower(a.Alert)
			if !strings.Contains(string(monitoring), "\n### "+a.Alert+"\n") {
				t.Errorf("docs/monitoring.md has no heading %s", a.Alert)
			}
		} else {
			a.expectSubject(t)
		}
		if a.Annotations["runbook_url"] != runbook {
			t.Errorf("%s has the runbook %s, want %s", a.Alert, a.Annotations["runbook_url"], runbook)
		}
	}
}

// expectSubject checks that the summary of an alert about findings says what and where.
func (a *alert) expectSubject(t *testing.T) {
	t.Helper()
	for _, label := range []string{"policy", "kind", "subject", "reason"} {
		if !strings.Contains(a.Annotations["summary"], "{{ $labels."+label+" }}") {
			t.Errorf("the summary of %s does not name the %s", a.Alert, label)
		}
	}
}

// Each alert is shown to wait, to fire and to resolve: in that order, by one of the tests.
func TestEveryAlertIsTested(t *testing.T) {
	var file struct {
		Tests []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert string `json:"alertname"`
				Fires []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	readYAML(t, filepath.Join(prometheusDir, "alerts_test.yaml"), &file)
	shown := map[string]bool{}
	for _, test := range file.Tests {
		states := map[string]string{}
		for _, rule := range test.Rules {
			state := "-"
			if len(rule.Fires) > 0 {
				state = "!"
			}
			states[rule.Alert] += state
		}
		for name, state := range states {
			shown[name] = shown[name] || state == "-!-"
		}
	}
	var want []string
	for _, a := range alerts(t) {
		want = append(want, a.Alert)
	}
	maps.DeleteFunc(shown, func(_ string, whole bool) bool { return !whole })
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(shown))); diff != "" {
		t.Errorf("alerts (-) and those shown to wait, fire and resolve (+):\n%s", diff)
	}
}

func TestAlertsInPrometheus(t *testing.T) {
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"},
		{"test", "rules", "alerts_test.yaml"},
	} {
		output, err := prometheus.Promtool(t.Context(), prometheusDir, nil, args...)
		if err != nil {
			t.Error(err)
		}
		t.Log(output)
	}
}
