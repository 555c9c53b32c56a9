// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package gitops

import (
	"context"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// repository is a Git repository that a server on loopback serves.
type repository struct {
	dir string
	url string
}

// newRepository makes an empty repository and serves it to the end of the suite, by git's own CGI program.
func newRepository(name string) *repository {
	GinkgoHelper()
	git, err := exec.LookPath("git")
	Expect(err).NotTo(HaveOccurred(), "install git")
	parent := GinkgoT().TempDir()
	server := httptest.NewServer(&cgi.Handler{
		Path: git, Args: []string{"http-backend"}, Root: "/", Stderr: GinkgoWriter,
		Env: []string{"GIT_PROJECT_ROOT=" + parent, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1"},
	})
	DeferCleanup(server.Close)
	r := &repository{dir: filepath.Join(parent, name), url: server.URL + "/" + name + "/.git"}
	Expect(os.Mkdir(r.dir, 0o700)).To(Succeed())
	return r
}

func (r *repository) git(ctx context.Context, args ...string) string {
	GinkgoHelper()
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir = r.dir
	command.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_AUTHOR_NAME=Admin", "GIT_AUTHOR_EMAIL=admin@example.com",
		"GIT_COMMITTER_NAME=Admin", "GIT_COMMITTER_EMAIL=admin@example.com")
	output, err := command.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(output))
	return strings.TrimSpace(string(output))
}

// commit commits all that is in the folder.
func (r *repository) commit(ctx context.Context, message string) {
	GinkgoHelper()
	r.git(ctx, "init", "--quiet", "--initial-branch=main")
	r.git(ctx, "add", "--all")
	r.git(ctx, "commit", "--quiet", "--message="+message)
}

// write writes a file of the repository.
func (r *repository) write(name, text string) {
	GinkgoHelper()
	path := filepath.Join(r.dir, name)
	Expect(os.MkdirAll(filepath.Dir(path), 0o700)).To(Succeed())
	Expect(os.WriteFile(path, []byte(text), 0o600)).To(Succeed())
}

// push commits what is in the folder, and has Flux take it.
func (r *repository) push(ctx context.Context, source, message string) {
	GinkgoHelper()
	r.commit(ctx, message)
	head := r.git(ctx, "rev-parse", "HEAD")
	reconcile(ctx, "GitRepository", source)
	Eventually(func(g Gomega) {
		object, err := fluxObject(ctx, "GitRepository", source)
		g.Expect(err).NotTo(HaveOccurred())
		revision, _, _ := unstructured.NestedString(object.Object, "status", "artifact", "revision")
		g.Expect(revision).To(HaveSuffix(head))
	}).Should(Succeed())
}
