// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
	"time"
)

const (
	// maxLine is the longest line of /metrics that is read. A kubelet's longest have some hundred bytes.
	maxLine = 64 << 10
	// maxRemaining is the longest remaining time that is believed: the end of the calendar that the API knows is further
	// away than any, and a time.Duration holds 292 years.
	maxRemaining = 200 * 365 * 24 * time.Hour
	// maxErrors is the largest count that is believed: a float64 counts no further.
	maxErrors = 1 << 53
)

// The series of a kubelet that are about certificates, all without labels (pkg/kubelet/certificate and cmd/kubelet/app in
// Kubernetes). The first two exist only with the settings rotateCertificates and serverTLSBootstrap.
const (
	seriesPrefix        = "kubelet_"
	seriesClientTTL     = "kubelet_certificate_manager_client_ttl_seconds"
	seriesServingTTL    = "kubelet_certificate_manager_server_ttl_seconds"
	seriesClientErrors  = "kubelet_certificate_manager_client_expiration_renew_errors"
	seriesServingErrors = "kubelet_server_expiration_renew_errors"
)

// Metrics are what /metrics says. A series that is absent, infinite or not a number says nothing: +Inf is what a kubelet
// without a valid certificate gives, whatever its help text says.
type Metrics struct {
	// RotateCertificates and ServerTLSBootstrap say that there is the series that comes with the setting of that name, whatever
	// its value.
	RotateCertificates, ServerTLSBootstrap bool
	// ClientRemaining is how long the client certificate remains valid, negative once it has expired; nil when not known.
	ClientRemaining *time.Duration
	// ClientErrors and ServingErrors count failures to renew, since the kubelet was started; nil when not known.
	ClientErrors, ServingErrors *int64
}

// parseMetrics reads the text format of Prometheus, line by line, and keeps the series that it wants.
func parseMetrics(body io.Reader) (*Metrics, error) {
	metrics := &Metrics{}
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4<<10), maxLine)
	ofKubelet := false
	for lines.Scan() {
		name, rest, found := bytes.Cut(lines.Bytes(), []byte(" "))
		if !found || !bytes.HasPrefix(name, []byte(seriesPrefix)) {
			continue
		}
		ofKubelet = true
		switch string(bytes.TrimSuffix(name, []byte("{}"))) {
		case seriesClientTTL:
			metrics.RotateCertificates, metrics.ClientRemaining = true, remaining(rest)
		case seriesServingTTL:
			metrics.ServerTLSBootstrap = true
		case seriesClientErrors:
			metrics.ClientErrors = failures(rest)
		case seriesServingErrors:
			metrics.ServingErrors = failures(rest)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, errors.New("a line of the answer is too long")
	case err != nil:
		return nil, err
	case !ofKubelet:
		return nil, errors.New("the answer holds no metrics of a kubelet")
	}
	return metrics, nil
}

// number is the value of a sample, which a timestamp may follow.
func number(text []byte) (float64, bool) {
	fields := bytes.Fields(text)
	if len(fields) == 0 || len(fields) > 2 {
		return 0, false
	}
	value, err := strconv.ParseFloat(string(fields[0]), 64)
	return value, err == nil && !math.IsInf(value, 0) && !math.IsNaN(value)
}

func remaining(text []byte) *time.Duration {
	value, ok := number(text)
	if !ok || math.Abs(value) > maxRemaining.Seconds() {
		return nil
	}
	return new(time.Duration(value) * time.Second)
}

func failures(text []byte) *int64 {
	value, ok := number(text)
	if !ok || value < 0 || value > maxErrors {
		return nil
	}
	return new(int64(value))
}

// Config is what /configz says. A boolean that is left out is false.
type Config struct {
	// RotateCertificates says that the kubelet renews its client certificate.
	RotateCertificates bool `json:"rotateCertificates"`
	// ServerTLSBootstrap says that the kubelet requests its serving certificate.
	ServerTLSBootstrap bool `json:"serverTLSBootstrap"`
	// TLSCertFile is the file with a static serving certificate.
	TLSCertFile string `json:"tlsCertFile"`
}

// parseConfig reads the configuration. The error does not repeat what a node wrote.
func parseConfig(body io.Reader) (*Config, error) {
	var answer struct {
		Config *Config `json:"kubeletconfig"`
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Config == nil {
		return nil, errNoConfig
	}
	return answer.Config, nil
}

var errNoConfig = errors.New("the answer is not a kubelet's configuration")
