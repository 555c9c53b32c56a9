// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/notafter/notafter/api/v1alpha1"
)

const (
	docsDir     = "../../docs"
	runbooksDir = docsDir + "/runbooks"
	// findingsGroup begins the comment on each group of reasons that findings have.
	findingsGroup = "Reasons of findings about "
)

// notFindings are the reasons that only conditions or Events have. A new reason is one of these, or has a runbook.
var notFindings = sets.New(
	v1alpha1.ReasonEvaluated, v1alpha1.ReasonInvalidSpec, v1alpha1.ReasonAsExpected, v1alpha1.ReasonNoNodesSelected,
	v1alpha1.ReasonNotEvaluated, v1alpha1.ReasonRecovered, v1alpha1.ReasonFindingsSuppressed,
)

// alsoFindings are reasons of conditions that findings have, too.
var alsoFindings = sets.New(v1alpha1.ReasonTrustBundleUnavailable)

var sections = []string{
	"## Meaning", "## Evidence", "## What breaks", "## Check by hand", "## Fix", "### On AKS", "### Elsewhere",
}

// declaredReasons are the values of the Reason constants in conditions.go, with the comment on their group.
func declaredReasons(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "conditions.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, declaration := range file.Decls {
		group, ok := declaration.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			constant, ok := spec.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(constant.Names[0].Name, "Reason") {
				continue
			}
			name := constant.Names[0].Name
			literal, ok := constant.Values[0].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s is not a string literal", name)
			}
			reason, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if name != "Reason"+reason {
				t.Errorf("%s is %q: the constant of that reason is called Reason%s", name, reason, reason)
			}
			reasons[reason] = group.Doc.Text()
		}
	}
	return reasons
}

// findingReasons are the declared reasons that a finding can have.
func findingReasons(t *testing.T) sets.Set[string] {
	t.Helper()
	findings := sets.New[string]()
	for reason, group := range declaredReasons(t) {
		if strings.HasPrefix(group, findingsGroup) || alsoFindings.Has(reason) {
			findings.Insert(reason)
		}
	}
	if findings.Len() == 0 {
		t.Fatalf("no group of constants in conditions.go has a comment that begins with %q", findingsGroup)
	}
	return findings
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestEveryReasonIsOfAFindingOrNot(t *testing.T) {
	declared := sets.KeySet(declaredReasons(t))
	if diff := cmp.Diff(sets.List(declared.Difference(findingReasons(t))), sets.List(notFindings)); diff != "" {
		t.Errorf("reasons that no finding has, in conditions.go (-) and in this test (+):\n%s", diff)
	}
	if missing := alsoFindings.Difference(declared); missing.Len() > 0 {
		t.Errorf("not declared in conditions.go: %v", sets.List(missing))
	}
}

func TestEveryFindingReasonHasARunbook(t *testing.T) {
	paths, err := filepath.Glob(runbooksDir + "/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages := sets.New[string]()
	for _, path := range paths {
		pages.Insert(strings.TrimSuffix(filepath.Base(path), ".md"))
	}
	pages.Delete("README")
	if diff := cmp.Diff(sets.List(findingReasons(t)), sets.List(pages)); diff != "" {
		t.Errorf("reasons of findings in conditions.go (-) and pages in docs/runbooks (+):\n%s", diff)
	}
}

func TestRunbookSections(t *testing.T) {
	for _, reason := range sets.List(findingReasons(t)) {
		t.Run(reason, func(t *testing.T) {
			lines := strings.Split(readFile(t, filepath.Join(runbooksDir, reason+".md")), "\n")
			if title := "# " + reason; lines[0] != title {
				t.Errorf("the page begins with %q, want %q", lines[0], title)
			}
			var found []string
			fenced := false
			for i, line := range lines {
				if strings.HasPrefix(line, "```") {
					fenced = !fenced
				}
				if fenced || !strings.HasPrefix(line, "##") {
					continue
				}
				found = append(found, line)
				// A section says something below its empty line; Fix may go straight to its parts.
				if i+2 >= len(lines) || lines[i+1] != "" || line != "## Fix" && strings.HasPrefix(lines[i+2], "#") {
					t.Errorf("section %q is empty", line)
				}
			}
			if diff := cmp.Diff(sections, found); diff != "" {
				t.Errorf("sections wanted (-) and there (+):\n%s", diff)
			}
		})
	}
}

func TestRunbookIndex(t *testing.T) {
	row := regexp.MustCompile(`(?m)^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \| .+ \|$`)
	severities := sets.New(string(v1alpha1.SeverityViolation), string(v1alpha1.SeverityUnknown), string(v1alpha1.SeverityInfo))
	indexed := map[string]int{}
	for _, cells := range row.FindAllStringSubmatch(readFile(t, runbooksDir+"/README.md"), -1) {
		reason, page, severity := cells[1], cells[2], cells[3]
		indexed[reason]++
		if page != reason {
			t.Errorf("the row of %s links to %s.md", reason, page)
		}
		if !severities.Has(severity) {
			t.Errorf("the row of %s has the severity %q, want one of %v", reason, severity, sets.List(severities))
		}
		if says := "\nSeverity: " + severity; !strings.Contains(readFile(t, filepath.Join(runbooksDir, reason+".md")), says) {
			t.Errorf("the row of %s has the severity %s, which its page does not say", reason, severity)
		}
	}
	if diff := cmp.Diff(sets.List(findingReasons(t)), slices.Sorted(maps.Keys(indexed))); diff != "" {
		t.Errorf("reasons of findings (-) and rows in docs/runbooks/README.md (+):\n%s", diff)
	}
	for reason, rows := range indexed {
		if rows > 1 {
			t.Errorf("%s has %d rows", reason, rows)
		}
	}
}

// TestDocsLinks follows the links between the pages, and to headings in them.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^):#]*)(?:#([^)]+))?\)`)
	for _, pattern := range []string{"/*.md", "/runbooks/*.md"} {
		paths, err := filepath.Glob(docsDir + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			for _, target := range link.FindAllStringSubmatch(readFile(t, path), -1) {
				linked := path
				if target[1] != "" {
					linked = filepath.Join(filepath.Dir(path), target[1])
				}
				if _, err := os.Stat(linked); err != nil { // it may be a folder of code
					t.Errorf("%s has a broken link: %v", path, err)
					continue
				}
				if target[2] != "" && !anchors(readFile(t, linked)).Has(target[2]) {
					t.Errorf("%s links to %s#%s: no such heading", path, target[1], target[2])
				}
			}
		}
	}
}

// anchors are the names that GitHub gives the headings of a page.
func anchors(page string) sets.Set[string] {
	names := sets.New[string]()
	heading := regexp.MustCompile(`(?m)^#+ (.+)$`)
	dropped := regexp.MustCompile(`[^\w\- ]`)
	for _, match := range heading.FindAllStringSubmatch(page, -1) {
		name := dropped.ReplaceAllString(strings.ToLower(match[1]), "")
		names.Insert(strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
