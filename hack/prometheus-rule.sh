#!/usr/bin/env bash
# Copyright The notafter Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Makes the PrometheusRule of the component config/components/prometheus of the rule file next to it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../config/components/prometheus"

{
  cat <<'END'
# Made by `make manifests` of alerts.yaml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: notafter
  namespace: notafter-system
  labels:
    app.kubernetes.io/name: notafter
    app.kubernetes.io/part-of: notafter
spec:
END
  sed -n '/^groups:/,$ s/^./  &/p; /^$/p' alerts.yaml
} >prometheus_rule.yaml
