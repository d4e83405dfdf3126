package process

import (
	"os"
	"os/exec"
)

// stdio are the pipes of a process that is about to start, or its terminal: own ends and the child's.
type stdio struct {
	stdin          *os.File // nil: the child reads /dev/null
	stdout, stderr *os.File
	terminal       *os.File // the master's side; the pipes are nil then
	child          [3]*os.File
}

func openStdio(spec *Spec) (*stdio, error) {
	p := &stdio{}
	var err error
	if spec.Terminal != nil {
		err = p.openTerminal(spec)
	} else {
		err = p.openPipes(spec.Stdin)
	}
	if err != nil {
		p.closeOwnEnds()
		p.closeChildEnds()
		return nil, err
	}
	return p, nil
}

func (p *stdio) openPipes(stdin bool) (err error) {
	if stdin {
		p.child[0], p.stdin, err = os.Pipe()
	} else {
		p.child[0], err = os.Open(os.DevNull)
	}
	if err != nil {
		return err
	}
	if p.stdout, p.child[1], err = os.Pipe(); err != nil {
		return err
	}
	p.stderr, p.child[2], err = os.Pipe()
	return err
}

func (p *stdio) connect(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.child[0], p.child[1], p.child[2]
}

func (p *stdio) closeChildEnds() {
	for _, f := range p.child {
		_ = f.Close() // nil is fine, and so is a terminal's second and third time: it is only said to be invalid
	}
}

func (p *stdio) closeOwnEnds() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr, p.terminal} {
		_ = f.Close()
	}
}
