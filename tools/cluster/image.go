// OCI images without an engine: some files in one layer, written as a tar that containerd imports.
// The same files give the same bytes: no times, no names of the build machine. It must not run or pull anything.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// imageSpec is what to build.
type imageSpec struct {
	reference  string   // name:tag
	entrypoint string   // path in the image
	out        string   // the tar
	files      []string // hostfile:imagepath
}

func cmdImage(_ context.Context, args []string) error {
	flags := newFlags("image")
	var spec imageSpec
	flags.StringVar(&spec.reference, "ref", "", "name:tag of the image")
	flags.StringVar(&spec.entrypoint, "entrypoint", "", "the program to run, a path in the image")
	flags.StringVar(&spec.out, "out", "", "the tar to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	spec.files = flags.Args()
	if spec.out == "" || spec.entrypoint == "" || len(spec.files) == 0 {
		return errors.New("image needs --ref, --entrypoint, --out and at least one HOSTFILE:IMAGEPATH")
	}
	if err := buildImage(spec); err != nil {
		return fmt.Errorf("image %s: %w", spec.reference, err)
	}
	info, err := os.Stat(spec.out)
	if err != nil {
		return err
	}
	fmt.Printf("%s %s (%.1f MB)\n", spec.out, spec.reference, float64(info.Size())/1e6)
	return nil
}

// blob is a piece of content that others refer to by its digest.
type blob struct {
	mediaType string
	content   []byte
}

func (b blob) sum() string    { return fmt.Sprintf("%x", sha256.Sum256(b.content)) }
func (b blob) digest() string { return "sha256:" + b.sum() }

// descriptor is how OCI refers to a blob.
func (b blob) descriptor() object {
	return object{"mediaType": b.mediaType, "size": len(b.content), "digest": b.digest()}
}

func buildImage(spec imageSpec) error {
	_, tag, tagged := strings.Cut(path.Base(spec.reference), ":")
	if !tagged {
		return fmt.Errorf("%q has no tag: write name:tag", spec.reference)
	}
	layer, err := makeLayer(spec.files)
	if err != nil {
		return err
	}
	platform := object{"architecture": runtime.GOARCH, "os": "linux"}
	config, err := jsonBlob("application/vnd.oci.image.config.v1+json", object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config":  object{"User": "65532:65532", "Entrypoint": []string{spec.entrypoint}, "Env": []string{"PATH=/bin:/"}, "WorkingDir": "/"},
		"rootfs":  object{"type": "layers", "diff_ids": []string{layer.digest()}},
		"history": []object{{"created_by": "sluice cluster tool"}},
	})
	if err != nil {
		return err
	}
	manifest, err := jsonBlob("application/vnd.oci.image.manifest.v1+json", object{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config.descriptor(), "layers": []object{layer.descriptor()},
	})
	if err != nil {
		return err
	}
	entry := manifest.descriptor()
	entry["platform"] = platform
	entry["annotations"] = object{"io.containerd.image.name": spec.reference, "org.opencontainers.image.ref.name": tag}
	index, err := jsonBlob("", object{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []object{entry}})
	if err != nil {
		return err
	}
	return writeImage(spec.out, index, config, manifest, layer)
}

func jsonBlob(mediaType string, value any) (blob, error) {
	content, err := json.Marshal(value) // map keys are sorted: deterministic
	return blob{mediaType, content}, err
}

// writeImage writes the tar beside its place and moves it there, so that nobody loads half an image.
func writeImage(out string, index blob, blobs ...blob) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(out), ".image-")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	archive := tar.NewWriter(temp)
	files := [][2]string{{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`}, {"index.json", string(index.content)}}
	for _, b := range blobs {
		files = append(files, [2]string{"blobs/sha256/" + b.sum(), string(b.content)})
	}
	for _, file := range files {
		if err := addFile(archive, file[0], 0o644, []byte(file[1])); err != nil {
			return err
		}
	}
	if err := errors.Join(archive.Close(), temp.Chmod(0o644), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), out)
}

// makeLayer makes the root file system: the files, /tmp, and the user that the image runs as.
func makeLayer(files []string) (blob, error) {
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	made := map[string]bool{}
	err := errors.Join(
		addDir(archive, made, "tmp", 0o1777),
		addDir(archive, made, "etc", 0o755),
		addFile(archive, "etc/passwd", 0o644, []byte("root:x:0:0::/:\nnonroot:x:65532:65532::/:\n")),
		addFile(archive, "etc/group", 0o644, []byte("root:x:0:\nnonroot:x:65532:\n")),
	)
	if err != nil {
		return blob{}, err
	}
	for _, file := range slices.Sorted(slices.Values(files)) {
		if err := addHostFile(archive, made, file); err != nil {
			return blob{}, err
		}
	}
	err = archive.Close()
	return blob{"application/vnd.oci.image.layer.v1.tar", buffer.Bytes()}, err
}

func addHostFile(archive *tar.Writer, made map[string]bool, file string) error {
	host, inside, found := strings.Cut(file, ":")
	if !found || !path.IsAbs(inside) {
		return fmt.Errorf("%q is not HOSTFILE:/PATH/IN/IMAGE", file)
	}
	info, err := os.Stat(host)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(host)
	if err != nil {
		return err
	}
	inside = strings.TrimPrefix(path.Clean(inside), "/")
	if err := addParents(archive, made, path.Dir(inside)); err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	return addFile(archive, inside, mode, content)
}

func addParents(archive *tar.Writer, made map[string]bool, dir string) error {
	if dir == "." || made[dir] {
		return nil
	}
	if err := addParents(archive, made, path.Dir(dir)); err != nil {
		return err
	}
	return addDir(archive, made, dir, 0o755)
}

func addDir(archive *tar.Writer, made map[string]bool, name string, mode int64) error {
	made[name] = true
	return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatGNU})
}

func addFile(archive *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0), Format: tar.FormatGNU}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}
