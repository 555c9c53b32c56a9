// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/notafter/notafter/hack/prometheus"
)

// panelTypes are those that every Grafana has, and that the dashboard uses.
var panelTypes = []string{
	"row", "stat", "timeseries", "table", "state-timeline", "status-history", "bargauge", "heatmap",
}

const columns = 24

// What can be said about the dashboard without Grafana. Its queries are run by the tests of hack/prometheus.
func TestDashboard(t *testing.T) {
	dashboard, err := prometheus.ReadDashboard("grafana/notafter.json")
	if err != nil {
		t.Fatal(err)
	}
	// Before 36, data sources were references by name.
	if dashboard.Title == "" || dashboard.UID == "" || dashboard.SchemaVersion < 36 {
		t.Errorf("title %q, uid %q, schemaVersion %d", dashboard.Title, dashboard.UID, dashboard.SchemaVersion)
	}
	variables := []string{}
	for _, variable := range dashboard.Templating.List {
		variables = append(variables, variable.Name)
		if variable.Type == "query" && (variable.AllValue == "" || variable.Datasource.UID != "${datasource}") {
			t.Errorf("variable %s has the data source %q, and for all the value %q", variable.Name, variable.Datasource.UID, variable.AllValue)
		}
	}
	if !slices.Contains(variables, "datasource") {
		t.Errorf("there is no variable datasource in %v", variables)
	}
	ids := map[int]string{}
	taken := map[[2]int]string{}
	for i := range dashboard.Panels {
		panel := &dashboard.Panels[i]
		if other, twice := ids[panel.ID]; twice || panel.ID == 0 {
			t.Errorf("%q has the id %d, as has %q", panel.Title, panel.ID, other)
		}
		ids[panel.ID] = panel.Title
		checkPlace(t, panel, taken)
		checkPanel(t, panel, variables)
	}
}

func checkPlace(t *testing.T, panel *prometheus.Panel, taken map[[2]int]string) {
	t.Helper()
	at := panel.GridPos
	if at.H < 1 || at.W < 1 || at.X < 0 || at.X+at.W > columns {
		t.Errorf("%q does not fit at %+v", panel.Title, at)
	}
	for x := at.X; x < at.X+at.W; x++ {
		for y := at.Y; y < at.Y+at.H; y++ {
			if other, full := taken[[2]int{x, y}]; full {
				t.Fatalf("%q lies over %q", panel.Title, other)
			}
			taken[[2]int{x, y}] = panel.Title
		}
	}
}

func checkPanel(t *testing.T, panel *prometheus.Panel, variables []string) {
	t.Helper()
	if !slices.Contains(panelTypes, panel.Type) {
		t.Errorf("%q is a %s", panel.Title, panel.Type)
	}
	if panel.Type == "row" {
		return
	}
	if panel.Title == "" || panel.Description == "" || panel.Datasource.UID != "${datasource}" || len(panel.Targets) == 0 {
		t.Errorf("panel %d lacks one of title, description, data source and queries: %+v", panel.ID, panel)
	}
	refs := map[string]bool{}
	for i := range panel.Targets {
		target := &panel.Targets[i]
		if refs[target.RefID] || target.RefID == "" {
			t.Errorf("%q has two queries %q", panel.Title, target.RefID)
		}
		refs[target.RefID] = true
		checkQuery(t, panel.Title, target, variables)
	}
}

func checkQuery(t *testing.T, panel string, target *prometheus.Target, variables []string) {
	t.Helper()
	if target.Datasource.UID != "${datasource}" || target.Instant == target.Range {
		t.Errorf("query %s of %q has the data source %q, instant %t and range %t",
			target.RefID, panel, target.Datasource.UID, target.Instant, target.Range)
	}
	for _, used := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
		if !slices.Contains(variables, used[1]) {
			t.Errorf("query %s of %q uses $%s, which there is not", target.RefID, panel, used[1])
		}
	}
	// Each replica says the same, so what is said must not count twice.
	if strings.Contains(target.Expr, "notafter_") && !regexp.MustCompile(`\b(max|min|rate)\b`).MatchString(target.Expr) {
		t.Errorf("query %s of %q does not take the replicas together: %s", target.RefID, panel, target.Expr)
	}
}
