// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseMetrics(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want *Metrics // nil for an error
	}{
		"empty":                   {"", nil},
		"only comments":           {"# HELP kubelet_x y\n# TYPE kubelet_x gauge\n", nil},
		"other program":           {"go_goroutines 5\n", nil},
		"rotation off":            {"kubelet_node_name{node=\"a\"} 1\n", &Metrics{}},
		"remaining":               {seriesClientTTL + " 1.5e3\n", &Metrics{RotateCertificates: true, ClientRemaining: new(1500 * time.Second)}},
		"expired":                 {seriesClientTTL + " -7", &Metrics{RotateCertificates: true, ClientRemaining: new(-7 * time.Second)}},
		"timestamp":               {seriesClientTTL + " 7 1700000000000\n", &Metrics{RotateCertificates: true, ClientRemaining: new(7 * time.Second)}},
		"empty labels":            {seriesClientTTL + "{} 7\n", &Metrics{RotateCertificates: true, ClientRemaining: new(7 * time.Second)}},
		"carriage return":         {seriesClientTTL + " 7\r\n", &Metrics{RotateCertificates: true, ClientRemaining: new(7 * time.Second)}},
		"infinite is not known":   {seriesClientTTL + " +Inf\n" + seriesClientErrors + " +Inf\n", &Metrics{RotateCertificates: true}},
		"not a number":            {seriesClientTTL + " NaN\n" + seriesServingErrors + " NaN\n", &Metrics{RotateCertificates: true}},
		"beyond belief":           {seriesClientTTL + " 1e300\n" + seriesClientErrors + " 1e300\n", &Metrics{RotateCertificates: true}},
		"negative count":          {seriesClientErrors + " -1\n", &Metrics{}},
		"no value":                {seriesClientTTL + " \n", &Metrics{RotateCertificates: true}},
		"word":                    {seriesClientTTL + " soon\n", &Metrics{RotateCertificates: true}},
		"longer name":             {seriesClientTTL + "_bucket 7\n", &Metrics{}},
		"labels mean another":     {seriesClientTTL + "{a=\"b\"} 7\n", &Metrics{}},
		"serving rotation":        {seriesServingTTL + " 7\n", &Metrics{ServerTLSBootstrap: true}},
		"nothing to serve":        {seriesServingTTL + " +Inf\n", &Metrics{ServerTLSBootstrap: true}},
		"another serving series":  {seriesServingTTL + "_x 7\n" + seriesServingErrors + " 0\n", &Metrics{ServingErrors: new(int64(0))}},
		"counts":                  {seriesClientErrors + " 0\n" + seriesServingErrors + " 12\n", &Metrics{ClientErrors: new(int64(0)), ServingErrors: new(int64(12))}},
		"a line that is too long": {"kubelet_a 1\n" + strings.Repeat("a", maxLine+1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseMetrics(strings.NewReader(test.text))
			if (err != nil) != (test.want == nil) {
				t.Fatalf("error = %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseConfig(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want *Config
	}{
		"all on":             {healthyConfig, &Config{RotateCertificates: true, ServerTLSBootstrap: true, TLSCertFile: "/a"}},
		"left out is off":    {`{"kubeletconfig":{"port":10250}}`, &Config{}},
		"empty":              {``, nil},
		"nothing":            {`{}`, nil},
		"null":               {`{"kubeletconfig":null}`, nil},
		"another type":       {`{"kubeletconfig":{"rotateCertificates":"yes"}}`, nil},
		"another component":  {`{"kubeproxyconfig":{}}`, nil},
		"a list":             {`[]`, nil},
		"HTML":               {`<html>`, nil},
		"deep":               {strings.Repeat(`{"kubeletconfig":`, 20000), nil},
		"ends in the middle": {`{"kubeletconfig":{"rotateCertificates":true`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseConfig(strings.NewReader(test.text))
			if (err != nil) != (test.want == nil) {
				t.Fatalf("error = %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParseMetrics(f *testing.F) {
	f.Add(healthyMetrics)
	f.Add(seriesClientTTL + " +Inf\n" + seriesServingErrors + " 1e400")
	f.Add(seriesClientTTL + "{} -0x1p-2 7\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		metrics, err := parseMetrics(strings.NewReader(text))
		if (metrics == nil) == (err == nil) {
			t.Fatalf("metrics = %v, error = %v", metrics, err)
		}
		if metrics == nil {
			return
		}
		if left := metrics.ClientRemaining; left != nil && left.Abs() > maxRemaining {
			t.Errorf("remaining %v", *left)
		}
		for _, count := range []*int64{metrics.ClientErrors, metrics.ServingErrors} {
			if count != nil && (*count < 0 || *count > maxErrors) {
				t.Errorf("count %d", *count)
			}
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add(healthyConfig)
	f.Add(`{"kubeletconfig":{"rotateCertificates":1e9}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if config, err := parseConfig(strings.NewReader(text)); (config == nil) == (err == nil) {
			t.Errorf("config = %v, error = %v", config, err)
		}
	})
}
