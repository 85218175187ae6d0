// Images: the same files give the same bytes, and the layer holds what a numeric user needs.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestSameFilesSameImage(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	var images [2][]byte
	for i := range images {
		out := filepath.Join(dir, "image.tar")
		if err := buildImage(imageSpec{reference: "a.local/b:1", entrypoint: "/bin/p", out: out, files: []string{program + ":/bin/p"}}); err != nil {
			t.Fatal(err)
		}
		images[i], _ = os.ReadFile(out)
		if err := os.Chtimes(program, time.Now(), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds of the same files differ")
	}
}

func TestLayerHoldsParentsUserAndScratch(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	layer, err := makeLayer([]string{program + ":/opt/bin/p"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	reader := tar.NewReader(bytes.NewReader(layer.content))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
	wanted := []string{"tmp/", "etc/", "etc/passwd", "etc/group", "opt/", "opt/bin/", "opt/bin/p"}
	if !slices.Equal(names, wanted) {
		t.Errorf("layer holds %q, wanted %q", names, wanted)
	}
}

func TestImageWithoutTagIsRefused(t *testing.T) {
	if err := buildImage(imageSpec{reference: "host:5000/name", entrypoint: "/p", out: filepath.Join(t.TempDir(), "x"), files: []string{"/dev/null:/p"}}); err == nil {
		t.Error("a reference without tag was taken")
	}
}
