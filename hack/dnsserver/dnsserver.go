// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dnsserver is a DNS server on loopback for tests and measurements, which can be told not to answer.
package dnsserver

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// maxQuery is the longest query over UDP.
const maxQuery = 512

// Reply says how a query for a name is treated.
type Reply struct {
	// Addresses of the name. With none, and nothing else set, the name does not exist.
	Addresses []netip.Addr
	// BlackHole gives no answer.
	BlackHole bool
	// Fails answers that the server failed.
	Fails bool
}

// Server answers queries for A and AAAA records over UDP.
type Server struct {
	conn   *net.UDPConn
	reply  func(name string) Reply
	served sync.WaitGroup

	mu      sync.Mutex
	queries map[string]int
}

// Start starts a server that treats queries as reply says, which gets names in lower case and without the dot at their end.
// It must not block.
func Start(reply func(name string) Reply) (*Server, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		return nil, fmt.Errorf("start the DNS server: %w", err)
	}
	s := &Server{conn: conn, reply: reply, queries: map[string]int{}}
	s.served.Go(s.serve)
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.conn.LocalAddr().String() }

// Queries is how often a name was asked for, A and AAAA records together.
func (s *Server) Queries(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[name]
}

// Stop ends the server.
func (s *Server) Stop() error {
	err := s.conn.Close()
	s.served.Wait()
	return err
}

func (s *Server) serve() {
	buffer := make([]byte, maxQuery)
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return // it was closed
		}
		if answer := s.answer(buffer[:n]); answer != nil {
			// A lost answer is one that the client has to live with, as with any server.
			_, _ = s.conn.WriteToUDPAddrPort(answer, from)
		}
	}
}

// answer is nil for a query that gets none.
func (s *Server) answer(query []byte) []byte {
	var message dnsmessage.Message
	if err := message.Unpack(query); err != nil || len(message.Questions) != 1 {
		return nil
	}
	question := message.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	s.mu.Lock()
	s.queries[name]++
	s.mu.Unlock()
	reply := s.reply(name)
	if reply.BlackHole {
		return nil
	}
	message.Response, message.Authoritative, message.RecursionAvailable = true, true, true
	message.Additionals = nil
	switch {
	case reply.Fails:
		message.RCode = dnsmessage.RCodeServerFailure
	case len(reply.Addresses) == 0:
		message.RCode = dnsmessage.RCodeNameError
	}
	message.Answers = records(question, reply.Addresses)
	packed, err := message.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// records are those of the kind that was asked for.
func records(question dnsmessage.Question, addresses []netip.Addr) []dnsmessage.Resource {
	var found []dnsmessage.Resource
	for _, address := range addresses {
		var body dnsmessage.ResourceBody
		switch {
		case address.Is4() && question.Type == dnsmessage.TypeA:
			body = &dnsmessage.AResource{A: address.As4()}
		case address.Is6() && question.Type == dnsmessage.TypeAAAA:
			body = &dnsmessage.AAAAResource{AAAA: address.As16()}
		default:
			continue
		}
		found = append(found, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1}, Body: body,
		})
	}
	return found
}
