// Command checklog verifies a copy of a ledger with the Go project's own sumdb packages: the signed tree
// head (sumdb/note), every hash tile, every entry's proof of inclusion and the consistency with smaller
// trees (sumdb/tlog), and a witness's cosignature. It knows nothing of the program that wrote the log.
package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	if len(os.Args) < 3 || len(os.Args) > 5 {
		fmt.Fprintln(os.Stderr, "usage: checklog DIR VKEY [WITNESS_VKEY [PROOF]]")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Println("NOT VERIFIED:", err)
		os.Exit(1)
	}
}

func check(dir, vkey string, rest []string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	tree, err := openHead(filepath.Join(dir, "checkpoint"), note.VerifierList(verifier), verifier.Name())
	if err != nil {
		return err
	}
	files := tlog.TileHashReader(tree, reader{dir})
	for _, tile := range tlog.NewTiles(height, 0, tree.N) {
		if _, err := tlog.ReadTileData(tile, files); err != nil {
			return fmt.Errorf("%s: %w", path(tile), err)
		}
	}
	entries := 0
	for first := int64(0); first < tree.N; first += 1 << height {
		width := tree.N - first
		if width > 1<<height {
			width = 1 << height
		}
		tile := tlog.Tile{H: height, L: -1, N: first >> height, W: int(width)}
		bundle, err := os.ReadFile(filepath.Join(dir, path(tile)))
		if err != nil {
			return err
		}
		for index := first; index < first+width; index++ {
			var entry []byte
			if entry, bundle, err = next(bundle); err != nil {
				return fmt.Errorf("%s: %w", path(tile), err)
			}
			proof, err := tlog.ProveRecord(tree.N, index, files)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
			entries++
		}
		if len(bundle) > 0 {
			return fmt.Errorf("%s: longer than its entries", path(tile))
		}
	}
	for old := int64(1); old <= tree.N; old = old*2 + 1 {
		hash, err := tlog.TreeHash(old, files)
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(tree.N, old, files)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old, hash); err != nil {
			return err
		}
	}
	if len(rest) > 0 {
		if err := checkCosigned(dir, rest[0], verifier); err != nil {
			return err
		}
	}
	if len(rest) > 1 {
		if err := checkProof(rest[1], note.VerifierList(verifier), verifier.Name()); err != nil {
			return err
		}
	}
	fmt.Printf("verified %d entries\n", entries)
	return nil
}

// openHead reads a signed tree head and checks its signatures.
func openHead(name string, known note.Verifiers, origin string) (tlog.Tree, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return tlog.Tree{}, err
	}
	return parseHead(data, known, origin)
}

func parseHead(data []byte, known note.Verifiers, origin string) (tlog.Tree, error) {
	opened, err := note.Open(data, known)
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != origin {
		return tlog.Tree{}, errors.New("not a tree head of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	hash, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: hash}, err
}

// checkCosigned wants the witness's signature under a kept head, beside the log's.
func checkCosigned(dir, vkey string, log note.Verifier) error {
	witness, err := newWitness(vkey)
	if err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(dir, "cosigned", "*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		opened, err := note.Open(data, note.VerifierList(log, witness))
		if err != nil {
			return err
		}
		if len(opened.Sigs) == 2 {
			return nil
		}
	}
	return errors.New("no cosignature of the witness")
}

// checkProof checks a tlog-proof whose extra data is the entry.
func checkProof(name string, known note.Verifiers, origin string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	head, checkpoint, found := bytes.Cut(data, []byte("\n\n"))
	lines := bufio.NewScanner(bytes.NewReader(head))
	lines.Buffer(nil, 1<<20)
	if !found || !lines.Scan() || lines.Text() != "c2sp.org/tlog-proof@v1" || !lines.Scan() {
		return errors.New("not a proof")
	}
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines.Text(), "extra "))
	if err != nil || !lines.Scan() {
		return errors.New("no entry in the proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines.Text(), "index "), 10, 64)
	if err != nil {
		return err
	}
	var proof tlog.RecordProof
	for lines.Scan() {
		hash, err := tlog.ParseHash(lines.Text())
		if err != nil {
			return err
		}
		proof = append(proof, hash)
	}
	tree, err := parseHead(checkpoint, known, origin)
	if err != nil {
		return err
	}
	return tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry))
}

// witness verifies Ed25519 cosignatures (signature type 4), which sumdb/note does not know by itself.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func newWitness(vkey string) (*witness, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("malformed witness key")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 33 || raw[0] != 4 {
		return nil, errors.New("malformed witness key")
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), raw...))
	if fmt.Sprintf("%x", sum[:4]) != parts[1] {
		return nil, errors.New("the witness key's id does not match")
	}
	return &witness{parts[0], binary.BigEndian.Uint32(sum[:4]), raw[1:]}, nil
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }

func (w *witness) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(w.key, []byte(signed), sig[8:])
}

func next(bundle []byte) (entry, rest []byte, err error) {
	if len(bundle) < 2 {
		return nil, nil, errors.New("too few entries")
	}
	stop := 2 + int(binary.BigEndian.Uint16(bundle))
	if stop > len(bundle) {
		return nil, nil, errors.New("an entry is cut off")
	}
	return bundle[2:stop], bundle[stop:], nil
}

// path is where tlog-tiles keeps a tile that sumdb calls tile/8/L/NNN.
func path(tile tlog.Tile) string {
	name := strings.TrimPrefix(tile.Path(), "tile/8/")
	return "tile/" + strings.Replace(name, "data/", "entries/", 1)
}

type reader struct{ dir string }

func (r reader) Height() int { return height }

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var read [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(filepath.Join(r.dir, path(tile)))
		if err != nil {
			return nil, err
		}
		read = append(read, data)
	}
	return read, nil
}

func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}
