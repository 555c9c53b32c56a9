// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notafter/notafter/api/v1alpha1"
)

var runbooksDir = filepath.Join("..", "..", "..", "docs", "runbooks")

// The index of the runbooks says of each reason what the judge makes of it.
func TestRunbookIndexHasTheCataloguesSeverities(t *testing.T) {
	index, err := os.ReadFile(filepath.Join(runbooksDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]v1alpha1.Severity{}
	row := regexp.MustCompile(`(?m)^\| \[(\w+)\]\(\w+\.md\) \| (\w+) \|`)
	for _, cells := range row.FindAllStringSubmatch(string(index), -1) {
		documented[cells[1]] = v1alpha1.Severity(cells[2])
	}
	judged := map[string]v1alpha1.Severity{}
	for rank := range catalogue {
		if _, twice := judged[catalogue[rank].reason]; twice {
			t.Errorf("%s is in the catalogue twice", catalogue[rank].reason)
		}
		judged[catalogue[rank].reason] = catalogue[rank].severity
	}
	if diff := cmp.Diff(judged, documented); diff != "" {
		t.Errorf("severities in the catalogue (-) and in docs/runbooks/README.md (+):\n%s", diff)
	}
}

// Whoever reads a finding has the address of its page.
func TestFindingsCarryTheAddressOfTheirRunbook(t *testing.T) {
	verdict := Evaluate(input(aksSpec(), alert))
	if len(verdict.Findings) == 0 {
		t.Fatal("a kubelet without a certificate has no finding")
	}
	for _, finding := range verdict.Findings {
		if want := runbooks + finding.Reason + ".md"; finding.RunbookURL != want {
			t.Errorf("%s has the runbook %q, want %q", finding.Reason, finding.RunbookURL, want)
		}
	}
	for rank, address := range runbookOf {
		if _, err := os.Stat(filepath.Join(runbooksDir, path.Base(address))); err != nil {
			t.Errorf("%s: %v", catalogue[rank].reason, err)
		}
		if len(address) > 256 {
			t.Errorf("%s does not fit into runbookURL", address)
		}
	}
}
