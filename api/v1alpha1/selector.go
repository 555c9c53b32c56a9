// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

var selectionOperators = map[metav1.LabelSelectorOperator]selection.Operator{
	metav1.LabelSelectorOpIn:           selection.In,
	metav1.LabelSelectorOpNotIn:        selection.NotIn,
	metav1.LabelSelectorOpExists:       selection.Exists,
	metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
}

// AsSelector returns the selector in the form that matches labels. An empty NodeSelector matches everything. The error
// names the first requirement that is not a valid one; the API server refuses such objects, so it means an object stored
// before the rule existed.
func (s *NodeSelector) AsSelector() (labels.Selector, error) {
	selector := labels.NewSelector()
	// In order, so that the error is always the same one.
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		requirement, err := labels.NewRequirement(key, selection.Equals, []string{string(s.MatchLabels[key])})
		if err != nil {
			return nil, fmt.Errorf("spec.nodes.selector.matchLabels: %w", err)
		}
		selector = selector.Add(*requirement)
	}
	for i, expression := range s.MatchExpressions {
		operator, ok := selectionOperators[expression.Operator]
		if !ok {
			return nil, fmt.Errorf("spec.nodes.selector.matchExpressions[%d]: operator %q is none of In, NotIn, Exists, DoesNotExist",
				i, expression.Operator)
		}
		values := make([]string, 0, len(expression.Values))
		for _, value := range expression.Values {
			values = append(values, string(value))
		}
		requirement, err := labels.NewRequirement(expression.Key, operator, values)
		if err != nil {
			return nil, fmt.Errorf("spec.nodes.selector.matchExpressions[%d]: %w", i, err)
		}
		selector = selector.Add(*requirement)
	}
	return selector, nil
}
