package http

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
)

// ResponseWriter takes an answer. One goroutine at a time may use it, until the handler returns.
type ResponseWriter interface {
	// Header returns the fields that go out with the first byte of the body, or with the end.
	Header() Header
	// Write sends a part of the body, or keeps it until there is more.
	Write(p []byte) (int, error)
	// WriteHeader sets the status, 200 unless set. Only the first call counts.
	WriteHeader(status int)
}

// Flush sends what w has kept.
func Flush(w ResponseWriter) error {
	if response, ok := w.(*Response); ok {
		return response.Flush()
	}
	return errors.ErrUnsupported
}

// Hijack takes the connection over from the server. early is what came after the request already. The caller closes the
// connection. HTTP/2 knows no such thing.
func Hijack(w ResponseWriter) (conn net.Conn, early []byte, err error) {
	if response, ok := w.(*Response); ok {
		if sender, ok := response.sender.(hijacker); ok && !response.begun {
			return sender.Hijack()
		}
	}
	return nil, nil, errors.ErrUnsupported
}

// bufferSize is how much of a body is kept for more to come. An answer that fits goes out as one.
const bufferSize = 4 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Sender is a version's part in one answer.
type Sender interface {
	// Send sends the next part. Its content is the sender's until Send returns. After an error there is no other part.
	Send(part *Part) error
}

type hijacker interface {
	Hijack() (net.Conn, []byte, error)
}

// Part is a part of an answer, sent at once.
type Part struct {
	Head    *Head     // of the first part, nil of later ones
	Body    [2][]byte // one after the other
	Last    bool
	Trailer Header // of the last part, if Head announced one
}

// Size returns the length of the body's part.
func (p *Part) Size() int { return len(p.Body[0]) + len(p.Body[1]) }

// Head is what goes before a body.
type Head struct {
	Status   int
	Header   Header   // has a Content-Length if it is known, and names in Trailer that are not to be sent with it
	Bodiless bool     // by its status, or as the answer to HEAD
	Length   int64    // of the body, or of what GET would answer to HEAD; -1 if it is not known
	Trailer  []string // names
}

// Response is an answer under way, whichever version carries it.
type Response struct {
	sender Sender
	head   bool // whether the request was one for the head only
	header Header
	status int
	length int64 // what Content-Length says
	size   int64 // what was written
	buf    *[bufferSize]byte
	held   int  // in buf
	begun  bool // whether the head is out
	err    error
}

// NewResponse returns the answer to a request with the given method.
func NewResponse(sender Sender, method string) *Response {
	return &Response{sender: sender, head: method == MethodHead, header: Header{}, length: -1}
}

// Header implements ResponseWriter.
func (w *Response) Header() Header { return w.header }

// WriteHeader implements ResponseWriter.
func (w *Response) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		w.length = n
	} else {
		w.header.Del("Content-Length")
	}
}

// Write implements ResponseWriter.
func (w *Response) Write(p []byte) (int, error) {
	if err := w.admit(int64(len(p))); err != nil {
		return 0, err
	}
	if w.head {
		return len(p), nil
	}
	if w.held+len(p) <= bufferSize {
		w.keep(p)
		return len(p), nil
	}
	if err := w.send(&Part{Body: [2][]byte{nil, p}}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// admit reports whether n more bytes belong to the answer, and counts them.
func (w *Response) admit(n int64) error {
	w.WriteHeader(StatusOK)
	switch {
	case w.err != nil:
		return w.err
	case bodiless(w.status):
		return ErrBodyNotAllowed
	case w.length >= 0 && n > w.length-w.size:
		return ErrContentLength
	}
	w.size += n
	return nil
}

func (w *Response) keep(p []byte) {
	if w.buf == nil {
		w.buf = buffers.Get().(*[bufferSize]byte)
	}
	w.held += copy(w.buf[w.held:], p)
}

// send sends part after what was kept.
func (w *Response) send(part *Part) error {
	if w.err != nil {
		return w.err
	}
	if w.held > 0 {
		part.Body[0] = w.buf[:w.held]
	}
	if !w.begun {
		part.Head = w.newHead(part.Last)
		w.begun = true
	}
	w.err = w.sender.Send(part)
	w.held = 0
	if w.buf != nil {
		buffers.Put(w.buf)
		w.buf = nil
	}
	return w.err
}

// newHead completes the head of an answer that has wholly been written if whole.
func (w *Response) newHead(whole bool) *Head {
	head := &Head{Status: w.status, Header: w.header, Length: w.length, Trailer: trailerNames(w.header)}
	if head.Bodiless = w.head || bodiless(w.status); head.Bodiless {
		if w.status != StatusNotModified && bodiless(w.status) {
			head.Length = -1
		}
		return head
	}
	if whole && head.Length < 0 && len(head.Trailer) == 0 {
		head.Length = w.size
		w.header.Set("Content-Length", strconv.FormatInt(w.size, 10))
	}
	return head
}

// ReadFrom writes all that r has. A connection that takes it from r itself does so.
func (w *Response) ReadFrom(r io.Reader) (int64, error) {
	w.WriteHeader(StatusOK)
	direct, ok := w.sender.(interface {
		SendFrom(r io.Reader, limit int64) (int64, error)
	})
	if ok && !w.head && !bodiless(w.status) && w.length-w.size > copySize {
		if err := w.Flush(); err != nil {
			return 0, err
		}
		n, err := direct.SendFrom(r, w.length-w.size)
		w.size += n
		w.err = err
		return n, err
	}
	return copyAll(w, r)
}

// copySize is the size of a buffer for copies. What is no larger is not worth a call of its own.
const copySize = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

func copyAll(w *Response, r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf[:])
}

// Flush sends what was kept, and the head at least.
func (w *Response) Flush() error {
	w.WriteHeader(StatusOK)
	if w.begun && w.held == 0 {
		return w.err
	}
	return w.send(&Part{})
}

// Finish sends the end. It fails if the answer is not what its head has announced, or could not be sent.
func (w *Response) Finish() error {
	w.WriteHeader(StatusOK)
	if w.err == nil && w.length > w.size && !w.head && !bodiless(w.status) {
		w.err = io.ErrUnexpectedEOF
	}
	return w.send(&Part{Last: true, Trailer: w.trailer()})
}

// trailer returns the fields that were announced and set meanwhile.
func (w *Response) trailer() Header {
	var trailer Header
	for _, name := range trailerNames(w.header) {
		if values := w.header[name]; len(values) > 0 {
			if trailer == nil {
				trailer = Header{}
			}
			trailer[name] = values
		}
	}
	return trailer
}
