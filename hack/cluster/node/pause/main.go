// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command pause does nothing until it is told to end. It holds a pod's namespaces, and is a pod where one is needed that
// does nothing.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, syscall.SIGTERM)
	<-ended
}
