// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apilabels "k8s.io/apimachinery/pkg/labels"

	"github.com/notafter/notafter/api/v1alpha1"
)

func TestAsSelector(t *testing.T) {
	expression := func(key string, operator metav1.LabelSelectorOperator, values ...v1alpha1.LabelValue) v1alpha1.NodeSelector {
		return v1alpha1.NodeSelector{MatchExpressions: []v1alpha1.NodeSelectorRequirement{
			{Key: key, Operator: operator, Values: values},
		}}
	}
	node := apilabels.Set{"pool": "a", "zone": "1"}
	tests := []struct {
		name     string
		selector v1alpha1.NodeSelector
		matches  bool
		err      string
	}{
		{name: "empty", matches: true},
		{name: "label", selector: v1alpha1.NodeSelector{MatchLabels: map[string]v1alpha1.LabelValue{"pool": "a"}}, matches: true},
		{name: "one label of two", selector: v1alpha1.NodeSelector{
			MatchLabels: map[string]v1alpha1.LabelValue{"pool": "a", "zone": "2"},
		}},
		{name: "in", selector: expression("pool", metav1.LabelSelectorOpIn, "b", "a"), matches: true},
		{name: "not in", selector: expression("pool", metav1.LabelSelectorOpNotIn, "a")},
		{name: "exists", selector: expression("zone", metav1.LabelSelectorOpExists), matches: true},
		{name: "does not exist", selector: expression("zone", metav1.LabelSelectorOpDoesNotExist)},
		{name: "in nothing", selector: expression("pool", metav1.LabelSelectorOpIn), err: "matchExpressions[0]: values: Invalid value"},
		{name: "operator", selector: expression("pool", "Near", "a"), err: `matchExpressions[0]: operator "Near" is none of In`},
		{name: "the first of two bad keys", selector: v1alpha1.NodeSelector{
			MatchLabels: map[string]v1alpha1.LabelValue{"b b": "1", "a a": "1"},
		}, err: `matchLabels: key: Invalid value: "a a"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			selector, err := test.selector.AsSelector()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want %q in it", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := selector.Matches(node); got != test.matches {
				t.Errorf("matches = %v, want %v", got, test.matches)
			}
		})
	}
}
