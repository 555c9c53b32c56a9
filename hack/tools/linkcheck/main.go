// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

// Command linkcheck reads Markdown files and reports every link to a file or a heading of this repository that leads nowhere.
// Links to other sites are not followed: whether they work is not a property of this repository.
//
//	linkcheck FILE...
package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

func main() {
	var errs []error
	c := checker{documents: map[string]*document{}}
	for _, path := range os.Args[1:] {
		errs = append(errs, c.check(path))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// document is what links and is linked to.
type document struct {
	// links are the destinations, and anchors the fragments of the headings.
	links   []string
	anchors map[string]bool
}

type checker struct{ documents map[string]*document }

func (c *checker) check(path string) error {
	d, err := c.read(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range d.links {
		if err := c.follow(path, link); err != nil {
			errs = append(errs, fmt.Errorf("%s: the link to %s: %w", path, link, err))
		}
	}
	return errors.Join(errs...)
}

func (c *checker) follow(from, link string) error {
	target, err := url.Parse(link)
	if err != nil || target.Scheme != "" || target.Host != "" {
		return err
	}
	path := from
	if target.Path != "" {
		path = filepath.Join(filepath.Dir(from), filepath.FromSlash(target.Path))
	}
	if !filepath.IsLocal(path) {
		return errors.New("it leads out of the repository")
	}
	if _, err := os.Stat(path); err != nil {
		return err
	}
	if target.Fragment == "" {
		return nil
	}
	d, err := c.read(path)
	if err != nil {
		return err
	}
	if !d.anchors[target.Fragment] {
		return fmt.Errorf("%s has no heading for #%s", path, target.Fragment)
	}
	return nil
}

func (c *checker) read(path string) (*document, error) {
	if d, ok := c.documents[path]; ok {
		return d, nil
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &document{anchors: map[string]bool{}}
	root := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
	err = ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Link:
			d.links = append(d.links, string(n.Destination))
		case *ast.Image:
			d.links = append(d.links, string(n.Destination))
		case *ast.Heading:
			d.addAnchor(slug(plain(n, source)))
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.documents[path] = d
	return d, nil
}

// addAnchor numbers headings of the same text, as GitHub does.
func (d *document) addAnchor(name string) {
	unique := name
	for i := 1; d.anchors[unique]; i++ {
		unique = name + "-" + strconv.Itoa(i)
	}
	d.anchors[unique] = true
}

// plain is a heading's text without its markup.
func plain(n ast.Node, source []byte) string {
	var b strings.Builder
	for child := n.FirstChild(); child != nil; child = child.NextSibling() {
		if leaf, ok := child.(*ast.Text); ok {
			b.Write(leaf.Segment.Value(source))
			continue
		}
		b.WriteString(plain(child, source))
	}
	return b.String()
}

// slug is the fragment that GitHub makes of a heading: lower case, hyphens for spaces, no punctuation.
func slug(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		default:
			return -1
		}
	}, strings.TrimSpace(heading))
}
