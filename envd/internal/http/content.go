package http

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// TimeFormat is how fields write a time, which is in UTC (RFC 9110, section 5.6.7).
const TimeFormat = "Mon, 02 Jan 2006 15:04:05 GMT"

// ServeContent answers with content, or the part of it that the request asks for, or what its conditions make of it (RFC 9110,
// sections 13 and 14). It knows no entity tags. A request for several parts gets the whole, as section 14.2 allows.
func ServeContent(w ResponseWriter, r *Request, modified time.Time, content io.ReadSeeker) {
	size, err := content.Seek(0, io.SeekEnd)
	if err != nil {
		plain(w, StatusInternalServerError)
		return
	}
	modified = modified.Truncate(time.Second)
	header := w.Header()
	header.Set("Last-Modified", modified.UTC().Format(TimeFormat))
	if status := condition(r, modified); status != StatusOK {
		if status == StatusNotModified {
			header.Del("Content-Type")
		}
		w.WriteHeader(status)
		return
	}
	header.Set("Accept-Ranges", "bytes")
	status, at := StatusOK, span{length: size}
	if wanted := r.Header.Get("Range"); wanted != "" && rangeCounts(r, modified) {
		status, at = choose(wanted, size)
	}
	switch status {
	case StatusRequestedRangeNotSatisfiable:
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		plain(w, status)
		return
	case StatusPartialContent:
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at.start, at.start+at.length-1, size))
	}
	send(w, r, status, content, at)
}

func send(w ResponseWriter, r *Request, status int, content io.ReadSeeker, at span) {
	if _, err := content.Seek(at.start, io.SeekStart); err != nil {
		plain(w, StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(at.length, 10))
	w.WriteHeader(status)
	if r.Method != MethodHead {
		_, _ = io.CopyN(w, content, at.length) // an answer that is too short breaks the connection
	}
}

// condition returns the status that the request's conditions lead to, in the order of RFC 9110, section 13.2.2.
func condition(r *Request, modified time.Time) int {
	reads := r.Method == MethodGet || r.Method == MethodHead
	match, noneMatch := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	unmodified, hasUnmodified := timeOf(r, "If-Unmodified-Since")
	since, hasSince := timeOf(r, "If-Modified-Since")
	switch {
	case match != "" && match != "*", match == "" && hasUnmodified && modified.After(unmodified):
		return StatusPreconditionFailed
	case noneMatch == "*" && !reads:
		return StatusPreconditionFailed
	case noneMatch == "*", noneMatch == "" && reads && hasSince && !modified.After(since):
		return StatusNotModified
	}
	return StatusOK
}

// rangeCounts reports whether If-Range, if there is one, names the content as it is.
func rangeCounts(r *Request, modified time.Time) bool {
	if r.Header.Get("If-Range") == "" {
		return true
	}
	at, ok := timeOf(r, "If-Range")
	return ok && at.Equal(modified)
}

func timeOf(r *Request, name string) (time.Time, bool) {
	at, err := time.Parse(TimeFormat, r.Header.Get(name))
	return at, err == nil
}

// span is a part of content.
type span struct{ start, length int64 }

var errUnsatisfiable = errors.New("no byte of the range is there")

// choose returns which part a Range field asks for, and the status that goes with it.
func choose(field string, size int64) (int, span) {
	whole := span{length: size}
	set, ok := strings.CutPrefix(field, "bytes=")
	if !ok || strings.Contains(set, ",") || size == 0 {
		return StatusOK, whole
	}
	at, err := parseSpan(strings.TrimSpace(set), size)
	switch {
	case errors.Is(err, errUnsatisfiable):
		return StatusRequestedRangeNotSatisfiable, span{}
	case err != nil:
		return StatusOK, whole // section 14.2: what is no valid range is ignored
	}
	return StatusPartialContent, at
}

func parseSpan(text string, size int64) (span, error) {
	from, to, ok := strings.Cut(text, "-")
	if !ok {
		return span{}, errors.New("not a range")
	}
	if from == "" {
		last, err := strconv.ParseUint(to, 10, 63)
		if err == nil && last == 0 {
			err = errUnsatisfiable
		}
		length := min(int64(last), size)
		return span{start: size - length, length: length}, err
	}
	start, err := strconv.ParseUint(from, 10, 63)
	if err != nil {
		return span{}, err
	}
	end := size - 1
	if to != "" {
		last, err := strconv.ParseUint(to, 10, 63)
		if err != nil || last < start {
			return span{}, errors.New("not a range")
		}
		end = min(int64(last), end)
	}
	if int64(start) >= size {
		return span{}, errUnsatisfiable
	}
	return span{start: int64(start), length: end - int64(start) + 1}, nil
}
