package http2

import (
	"encoding/binary"
	"io"
)

// The settings that matter here (section 6.5.2).
const (
	settingMaxStreams    = 3
	settingInitialWindow = 4
	settingMaxFrame      = 5
	settingMaxHeaderList = 6
)

// receive does what a frame says.
func (c *conn) receive(f *frame) error {
	switch f.kind {
	case frameData:
		return c.receiveData(f)
	case frameHeaders:
		return c.receiveHeaders(f)
	case frameReset:
		return c.receiveReset(f)
	case frameSettings:
		return c.receiveSettings(f)
	case framePing:
		return c.receivePing(f)
	case frameWindowUpdate:
		return c.receiveWindowUpdate(f)
	case framePushPromise, frameContinuation:
		return connError{protocolError, "a frame is out of place"}
	}
	return nil // PRIORITY and GOAWAY, and what is not known yet
}

// known reports whether the peer has used the stream before: it may not know yet that the stream has ended.
func (c *conn) known(id uint32) bool { return id%2 == 1 && id <= c.lastID }

func (c *conn) receiveData(f *frame) error {
	size := int64(len(f.payload))
	if err := f.unpad(); err != nil {
		return err
	}
	if !c.known(f.stream) {
		return connError{protocolError, "DATA on an idle stream"}
	}
	c.mu.Lock()
	if c.receiveWindow -= size; c.receiveWindow < 0 {
		c.mu.Unlock()
		return connError{flowControlError, "more DATA than the connection's window"}
	}
	s := c.streams[f.stream]
	if s == nil {
		c.consumed += size
		update := c.update()
		c.mu.Unlock()
		return c.writeIfAny(update)
	}
	defer c.mu.Unlock()
	return s.receive(f.payload, size, f.has(flagEndStream))
}

func (c *conn) receiveReset(f *frame) error {
	if len(f.payload) != 4 {
		return connError{frameSizeError, "a RST_STREAM of a wrong size"}
	}
	if !c.known(f.stream) {
		return connError{protocolError, "RST_STREAM of an idle stream"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[f.stream]; s != nil {
		s.fail(io.ErrUnexpectedEOF)
		s.forget()
	}
	return nil
}

func (c *conn) receivePing(f *frame) error {
	switch {
	case len(f.payload) != 8:
		return connError{frameSizeError, "a PING of a wrong size"}
	case f.stream != 0:
		return connError{protocolError, "a PING on a stream"}
	case f.has(flagAck):
		return nil
	}
	return c.write(append(appendFrame(nil, 8, framePing, flagAck, 0), f.payload...))
}

func (c *conn) receiveSettings(f *frame) error {
	switch {
	case f.stream != 0:
		return connError{protocolError, "SETTINGS on a stream"}
	case len(f.payload)%6 != 0 || f.has(flagAck) && len(f.payload) > 0:
		return connError{frameSizeError, "SETTINGS of a wrong size"}
	case f.has(flagAck):
		return nil
	}
	for rest := f.payload; len(rest) > 0; rest = rest[6:] {
		if err := c.set(binary.BigEndian.Uint16(rest), int64(binary.BigEndian.Uint32(rest[2:]))); err != nil {
			return err
		}
	}
	return c.write(appendFrame(nil, 0, frameSettings, flagAck, 0))
}

// set takes one of the peer's settings.
func (c *conn) set(id uint16, value int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch id {
	case settingInitialWindow:
		if value > maxWindow {
			return connError{flowControlError, "an initial window is too large"}
		}
		for _, s := range c.streams {
			if s.sendWindow += value - c.peerWindow; s.sendWindow > maxWindow {
				return connError{flowControlError, "an initial window makes another too large"}
			}
		}
		c.peerWindow = value
		c.changed.Broadcast()
	case settingMaxFrame:
		if value < maxFrame || value >= 1<<24 {
			return connError{protocolError, "a maximum of frames' size is out of range"}
		}
		c.peerFrame = value
	}
	return nil
}

func (c *conn) receiveWindowUpdate(f *frame) error {
	if len(f.payload) != 4 {
		return connError{frameSizeError, "a WINDOW_UPDATE of a wrong size"}
	}
	more := int64(binary.BigEndian.Uint32(f.payload) &^ (1 << 31))
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.changed.Broadcast()
	if f.stream == 0 {
		if c.sendWindow += more; more == 0 || c.sendWindow > maxWindow {
			return connError{windowFault(more), "a WINDOW_UPDATE out of range"}
		}
		return nil
	}
	if !c.known(f.stream) {
		return connError{protocolError, "a WINDOW_UPDATE of an idle stream"}
	}
	if s := c.streams[f.stream]; s != nil {
		if s.sendWindow += more; more == 0 || s.sendWindow > maxWindow {
			return streamError{f.stream, windowFault(more)}
		}
	}
	return nil
}

func windowFault(more int64) errorCode {
	if more == 0 {
		return protocolError
	}
	return flowControlError
}

// update returns a frame that gives the connection's window back, if that is worth it. The caller holds mu.
func (c *conn) update() []byte {
	if c.consumed < connWindow/2 {
		return nil
	}
	more := c.consumed
	c.receiveWindow, c.consumed = c.receiveWindow+more, 0
	return binary.BigEndian.AppendUint32(appendFrame(nil, 4, frameWindowUpdate, 0, 0), uint32(more))
}

func (c *conn) writeIfAny(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	return c.write(out)
}
