// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "time"

// Defaults of CertificatePolicySpec. The CRD's schema states them for the API server, which fills them in; code reads them
// only where an object was built without an API server.
const (
	DefaultWarnAtLifetimePercent        int32 = 80
	DefaultOverdueAtLifetimePercent     int32 = 90
	DefaultMinimumRemaining                   = 24 * time.Hour
	DefaultPendingTimeout                     = 5 * time.Minute
	DefaultIssueTimeout                       = 2 * time.Minute
	DefaultProbeInterval                      = 10 * time.Minute
	DefaultProbeTimeout                       = 5 * time.Second
	DefaultControlPlaneMinimumRemaining       = 720 * time.Hour
	DefaultBootstrapTokenWarnBefore           = 24 * time.Hour
	DefaultDNSTimeout                         = 5 * time.Second

	DefaultMaximumDecisionsPerNode int32 = 12
	// DefaultPendingNodesMargin is how many more than there are Nodes maximumPendingNodes is where it is left out.
	DefaultPendingNodesMargin = 100
)
