// Copyright The notafter Authors.
// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/notafter/notafter/hack/cluster/internal/filelock"
)

// repository makes a repository with the real modules, an empty cache and a go command that needs no time: it notes each
// call in the file calls, and "builds" every program that the real one would. The working directory is inside it.
type repository struct {
	root, calls string
	cache       map[Program]string // where each program belongs
}

// fakeGo leaves building setup-envtest to the real go command, once per run of the tests.
const fakeGo = `#!/bin/sh
case "$*" in *setup-envtest*)
	[ -x %[3]q ] || { %[1]q "$@" && cp "$4" %[3]q || exit; }
	exec cp %[3]q "$4";;
esac
echo "$CGO_ENABLED $GOFLAGS$GOWORK $PWD $*" >>%[2]q
[ -n "$FAKE_GO_FAILS" ] && { echo "# k8s.io/kubernetes"; echo "main.go:1: cannot use x"; exit 1; }
while [ "$1" != -o ]; do shift; done
dir=$2; shift 2
sleep 0.2
for package; do
	name=${package##*/}; [ "$name" = v3 ] && name=server
	echo "$package"
	printf '#!/bin/sh\necho built\n' >"$dir/$name"; chmod +x "$dir/$name"
done
`

// builtTool is where the first built setup-envtest is kept.
var builtTool string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builtTool = filepath.Join(dir, "setup-envtest")
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func newRepository(t *testing.T) repository {
	t.Helper()
	realRoot, err := RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	realGo, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	r := repository{root: t.TempDir(), cache: map[Program]string{}}
	r.calls = filepath.Join(r.root, "calls")
	if err := os.CopyFS(filepath.Join(r.root, "hack/cluster/modules"), os.DirFS(filepath.Join(realRoot, "hack/cluster/modules"))); err != nil {
		t.Fatal(err)
	}
	writeScript(t, filepath.Join(r.root, "bin", "go"), fmt.Sprintf(fakeGo, realGo, r.calls, builtTool))
	t.Setenv("PATH", filepath.Join(r.root, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv(AssetsEnv, "")
	t.Setenv(SkipDownloadEnv, "true")
	t.Chdir(filepath.Join(r.root, "hack"))
	if r.root, err = filepath.EvalSymlinks(r.root); err != nil {
		t.Fatal(err)
	}
	s := r.store(t, io.Discard)
	for _, program := range ControlPlane() {
		r.cache[program] = s.path(program)
	}
	return r
}

func (r repository) store(t *testing.T, log io.Writer) *store {
	t.Helper()
	s, err := openStore(r.root, log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// built returns the Go packages that were built, in order.
func (r repository) built(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(r.calls)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var packages []string
	for word := range strings.FieldsSeq(string(data)) {
		if strings.HasPrefix(word, "k8s.io/kubernetes/") || strings.HasPrefix(word, "go.etcd.io/") {
			packages = append(packages, word)
		}
	}
	return packages
}

func writeScript(t *testing.T, path, script string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

var allPackages = []string{
	"go.etcd.io/etcd/server/v3", "k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes/cmd/kube-controller-manager",
	"k8s.io/kubernetes/cmd/kubectl",
}

func TestBuildsWhatIsMissingOnce(t *testing.T) {
	r := newRepository(t)
	left := filepath.Join(r.root, ".cache", "build", "left") // by a run that was killed
	writeScript(t, left, "")

	lock, err := filelock.Try(filepath.Join(r.root, ".cache", "binaries.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	var both sync.WaitGroup
	for range 2 { // two processes want them while a third is getting some
		both.Go(func() {
			found, err := Find(t.Context(), &log, ControlPlane()...)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(r.cache, found); diff != "" {
				t.Errorf("paths (-want +got):\n%s", diff)
			}
		})
	}
	const waiting = "another process is getting programs"
	err = wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return strings.Count(log.String(), waiting) == 2, nil
	})
	if err := errors.Join(err, lock.Release()); err != nil {
		t.Errorf("waiting for both to wait: %v", err)
	}
	both.Wait()
	if diff := cmp.Diff(allPackages, r.built(t)); diff != "" {
		t.Errorf("packages built (-want +got):\n%s", diff)
	}
	for _, want := range []string{
		"building kube-apiserver, kube-controller-manager, kubectl v1.", "about 5 minutes", "built etcd in",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not tell %q:\n%s", want, log.String())
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(filepath.Dir(left))); err != nil || len(entries) != 3 {
		t.Errorf("in the cache: %v, %v, want etcd, kubernetes and the lock", entries, err)
	}

	log.Reset()
	if _, err := Find(t.Context(), &log, ControlPlane()...); err != nil || log.String() != "" {
		t.Errorf("finding them again: %v, and says %q", err, log.String())
	}
	if built := r.built(t); len(built) != len(allPackages) {
		t.Errorf("built again: %v", built)
	}
}

func TestBuildCommand(t *testing.T) {
	r := newRepository(t)
	t.Setenv("GOFLAGS", "-mod=vendor")
	t.Setenv("CGO_ENABLED", "1")
	if _, err := Find(t.Context(), t.Output(), Kubectl); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(r.calls)
	if err != nil {
		t.Fatal(err)
	}
	version := filepath.Base(filepath.Dir(r.cache[Kubectl]))
	minor := strings.Split(version, ".")[1]
	for _, want := range []string{
		"0 off " + filepath.Join(r.root, "hack/cluster/modules/kubernetes") + " build ",
		".gitVersion=" + version + " ", ".gitMajor=1 ", ".gitMinor=" + minor + " ",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("go was called with %q, which lacks %q", data, want)
		}
	}
}

func TestBuildFailureIsShown(t *testing.T) {
	r := newRepository(t)
	t.Setenv("FAKE_GO_FAILS", "1")
	var log syncBuffer
	_, err := Find(t.Context(), &log, APIServer)
	if err == nil || !strings.Contains(err.Error(), "building kube-apiserver") {
		t.Errorf("error: got %v", err)
	}
	if !strings.Contains(log.String(), "main.go:1: cannot use x") {
		t.Errorf("the log does not show why:\n%s", log.String())
	}
	if found, _ := split(ControlPlane(), r.store(t, t.Output()).path); len(found) > 0 {
		t.Errorf("in the cache: %v", found)
	}
	t.Setenv("FAKE_GO_FAILS", "")
	if _, err := Find(t.Context(), t.Output(), APIServer); err != nil {
		t.Errorf("after a failure: %v", err)
	}
}

func TestAssetsComeFirstOneByOne(t *testing.T) {
	r := newRepository(t)
	assets := t.TempDir()
	t.Setenv(AssetsEnv, assets)
	writeScript(t, filepath.Join(assets, "etcd"), "")
	writeScript(t, filepath.Join(assets, "kube-apiserver"), "#!/bin/sh\necho Kubernetes v1.2.3\n")
	if err := os.WriteFile(filepath.Join(assets, "kubectl"), nil, 0o644); err != nil { // not executable
		t.Fatal(err)
	}

	var log syncBuffer
	found, err := Find(t.Context(), &log, ControlPlane()...)
	if err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(r.cache)
	want[Etcd], want[APIServer] = filepath.Join(assets, "etcd"), filepath.Join(assets, "kube-apiserver")
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(allPackages[2:], r.built(t)); diff != "" {
		t.Errorf("packages built (-want +got):\n%s", diff)
	}
	for _, want := range []string{
		"kube-controller-manager, kubectl: not in $KUBEBUILDER_ASSETS", "using kube-apiserver v1.2.3 from $KUBEBUILDER_ASSETS",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not tell %q:\n%s", want, log.String())
		}
	}

	t.Chdir(t.TempDir())
	log.Reset()
	if found, err := Find(t.Context(), &log, Etcd, APIServer); err != nil || len(found) != 2 || log.String() != "" {
		t.Errorf("outside the repository, all in the assets: %v, %v, and says %q", found, err, log.String())
	}
	if _, err := Find(t.Context(), &log, Kubectl); err == nil || !strings.Contains(err.Error(), "not inside the notafter") {
		t.Errorf("outside the repository, not in the assets: got %v", err)
	}
}

func TestSkipDownloadMustBeABoolean(t *testing.T) {
	newRepository(t)
	t.Setenv(SkipDownloadEnv, "perhaps")
	var log syncBuffer
	if _, err := Find(t.Context(), &log, Kubectl); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), `$NOTAFTER_SKIP_DOWNLOAD: "perhaps" is neither true nor false`) {
		t.Errorf("the log does not tell:\n%s", log.String())
	}
}

// With the real setup-envtest and an index on this machine.
func TestDownload(t *testing.T) {
	for name, test := range map[string]struct {
		index func(archive, url string) string
		built []string
		log   string
	}{
		"to be had": {
			index: func(archive, url string) string {
				return fmt.Sprintf(`{"releases": {"v1.37.0": {"%s": {"hash": "%x", "selfLink": "%s"}}}}`,
					archive, sha512.Sum512(envtestArchive(t)), url)
			},
			built: allPackages[2:3], // the archive has no controller manager
			log:   "downloaded etcd, kube-apiserver, kubectl of 1.37.0",
		},
		"with another hash": {
			index: func(archive, url string) string {
				return fmt.Sprintf(`{"releases": {"v1.37.0": {"%s": {"hash": "00", "selfLink": "%s"}}}}`, archive, url)
			},
			built: allPackages,
			log:   "etcd, kube-apiserver, kubectl: not downloaded: setup-envtest use: exit status 2",
		},
		"of other versions only": {
			index: func(archive, url string) string {
				return fmt.Sprintf(`{"releases": {"v1.36.0": {"%s": {"hash": "00", "selfLink": "%s"}}}}`,
					strings.Replace(archive, "37", "36", 1), url)
			},
			built: allPackages,
			log:   "there is no envtest archive of Kubernetes 1.37.x!",
		},
		"unreachable": {
			built: allPackages,
			log:   "etcd, kube-apiserver, kubectl: not downloaded: setup-envtest list: exit status 2: unable list to",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			t.Setenv(SkipDownloadEnv, "")
			var log syncBuffer
			s := r.store(t, &log)
			s.versions[kubernetes.name] = "v1.37.2" // whatever the repository is at
			s.index = indexServer(t, test.index)
			if _, err := s.provide(t.Context(), ControlPlane()); err != nil {
				t.Fatalf("%v\n%s", err, log.String())
			}
			if diff := cmp.Diff(test.built, r.built(t)); diff != "" {
				t.Errorf("packages built (-want +got):\n%s", diff)
			}
			if !strings.Contains(log.String(), test.log) {
				t.Errorf("the log does not tell %q:\n%s", test.log, log.String())
			}
			output, err := exec.Command(s.path(Etcd)).Output()
			if want := map[bool]string{true: "downloaded\n", false: "built\n"}[len(test.built) == 1]; string(output) != want {
				t.Errorf("etcd: got %q, %v, want %q", output, err, want)
			}
		})
	}
}

// indexServer serves an index and the archive that it names. Without an index nothing listens.
func indexServer(t *testing.T, index func(archive, url string) string) string {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	if index == nil {
		server.Close()
		return server.URL
	}
	name := fmt.Sprintf("envtest-v1.37.0-%s-%s.tar.gz", runtime.GOOS, runtime.GOARCH)
	mux.HandleFunc("/index", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, index(name, server.URL+"/archive"))
	})
	mux.HandleFunc("/archive", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(envtestArchive(t)) })
	return server.URL + "/index"
}

func envtestArchive(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	zipped := gzip.NewWriter(&archive)
	files := tar.NewWriter(zipped)
	const script = "#!/bin/sh\necho downloaded\n"
	for _, program := range downloadable {
		header := &tar.Header{Name: "controller-tools/envtest/" + string(program), Mode: 0o755, Size: int64(len(script))}
		if err := files.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(files, script); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func TestBuildProgress(t *testing.T) {
	var log syncBuffer
	progress := buildProgress{say: (&store{log: &log}).say}
	progress.read(strings.NewReader("runtime\ngo: downloading a v1.0.0\nnet/http\n" + strings.Repeat("x", 100_000) + "\n"))
	if log.String() != "  go: downloading a v1.0.0\n" || progress.compiled.Load() != 2 {
		t.Errorf("got %d packages and %q", progress.compiled.Load(), log.String())
	}

	log.Reset()
	done := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Go(func() { progress.tick(time.Millisecond, done) })
	deadline := time.After(10 * time.Second)
	for !strings.Contains(log.String(), "still building: 2 packages compiled in") {
		select {
		case <-deadline:
			t.Fatal("the ticker says nothing")
		case <-time.After(time.Millisecond):
		}
	}
	close(done)
	ticker.Wait()
}

func TestEveryProgramHasAModule(t *testing.T) {
	var programs []Program
	for _, m := range modules {
		for _, program := range m.programs() {
			programs = append(programs, program)
			if moduleOf(program).name != m.name {
				t.Errorf("%s belongs to %s, not to %s", program, m.name, moduleOf(program).name)
			}
		}
	}
	slices.Sort(programs)
	want := slices.Sorted(slices.Values(All()))
	if diff := cmp.Diff(want, programs); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (b *syncBuffer) Write(data []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(data)
}

func (b *syncBuffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.String()
}

func (b *syncBuffer) Reset() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.buffer.Reset()
}
