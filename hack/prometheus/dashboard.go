// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Dashboard is what of a dashboard of Grafana is tested.
type Dashboard struct {
	Title         string `json:"title"`
	UID           string `json:"uid"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []Variable `json:"list"`
	} `json:"templating"`
	Panels []Panel `json:"panels"`
}

// Variable is a variable of a dashboard.
type Variable struct {
	Name       string     `json:"name"`
	Type       string     `json:"type"`
	AllValue   string     `json:"allValue"`
	Definition string     `json:"definition"`
	Datasource Datasource `json:"datasource"`
}

// Datasource is where queries go.
type Datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// Panel is a panel of a dashboard, or a row.
type Panel struct {
	ID          int        `json:"id"`
	Type        string     `json:"type"`
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Datasource  Datasource `json:"datasource"`
	GridPos     struct {
		H, W, X, Y int
	} `json:"gridPos"`
	Targets []Target `json:"targets"`
}

// Target is a query of a panel.
type Target struct {
	RefID      string     `json:"refId"`
	Datasource Datasource `json:"datasource"`
	Expr       string     `json:"expr"`
	Instant    bool       `json:"instant"`
	Range      bool       `json:"range"`
	Format     string     `json:"format"`
}

// ReadDashboard reads a dashboard.
func ReadDashboard(path string) (*Dashboard, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	dashboard := &Dashboard{}
	if err := json.Unmarshal(content, dashboard); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return dashboard, nil
}

// Query is the expression that Grafana sends while all values of the variables are chosen.
func (d *Dashboard) Query(target *Target) string {
	query := target.Expr
	for _, variable := range d.Templating.List {
		if variable.AllValue != "" {
			query = strings.ReplaceAll(query, "$"+variable.Name, variable.AllValue)
		}
	}
	return query
}
