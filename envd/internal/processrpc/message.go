package processrpc

// The messages of proto/envd/process/process.proto, which says what they mean.

// PTY is a terminal.
type PTY struct {
	Size *Size `wire:"1,size"`
}

// Size is a terminal's.
type Size struct {
	Cols uint32 `wire:"1,cols"`
	Rows uint32 `wire:"2,rows"`
}

// ProcessConfig says what to run.
type ProcessConfig struct {
	Cmd  string            `wire:"1,cmd"`
	Args []string          `wire:"2,args"`
	Envs map[string]string `wire:"3,envs"`
	Cwd  *string           `wire:"4,cwd"`
}

// ProcessInfo describes a process.
type ProcessInfo struct {
	Config      *ProcessConfig `wire:"1,config"`
	PID         uint32         `wire:"2,pid"`
	Tag         *string        `wire:"3,tag"`
	User        string         `wire:"100,user"`
	StartedAt   float64        `wire:"101,started_at"`
	PTY         bool           `wire:"102,pty"`
	OutputBytes uint64         `wire:"103,output_bytes"`
	End         *EndEvent      `wire:"104,end"`
}

// ListResponse is List's.
type ListResponse struct {
	Processes []*ProcessInfo `wire:"1,processes"`
}

// StartRequest is Start's.
type StartRequest struct {
	Process *ProcessConfig `wire:"1,process"`
	PTY     *PTY           `wire:"2,pty"`
	Tag     *string        `wire:"3,tag"`
	Stdin   *bool          `wire:"4,stdin"`
}

// UpdateRequest is Update's.
type UpdateRequest struct {
	Process *ProcessSelector `wire:"1,process"`
	PTY     *PTY             `wire:"2,pty"`
}

// ProcessEvent is what happens to a process.
type ProcessEvent struct {
	Start     *StartEvent `wire:"1,start,oneof=event"`
	Data      *DataEvent  `wire:"2,data,oneof=event"`
	End       *EndEvent   `wire:"3,end,oneof=event"`
	Keepalive *Empty      `wire:"4,keepalive,oneof=event"`
	Gap       *GapEvent   `wire:"100,gap,oneof=event"`
}

// StartEvent says that a process runs.
type StartEvent struct {
	PID    uint32 `wire:"1,pid"`
	Offset uint64 `wire:"100,offset"`
}

// DataEvent is output.
type DataEvent struct {
	Stdout []byte `wire:"1,stdout,oneof=output"`
	Stderr []byte `wire:"2,stderr,oneof=output"`
	PTY    []byte `wire:"3,pty,oneof=output"`
}

// GapEvent is output that is gone.
type GapEvent struct {
	Bytes uint64 `wire:"1,bytes"`
}

// EndEvent says how a process ended.
type EndEvent struct {
	ExitCode  int32   `wire:"1,exit_code,sint"`
	Exited    bool    `wire:"2,exited"`
	Status    string  `wire:"3,status"`
	Error     *string `wire:"4,error"`
	Signal    int32   `wire:"100,signal"`
	TimedOut  bool    `wire:"101,timed_out"`
	OOMKilled bool    `wire:"102,oom_killed"`
}

// Empty is every message without fields.
type Empty struct{}

// EventResponse is one event of Start's and Connect's streams.
type EventResponse struct {
	Event *ProcessEvent `wire:"1,event"`
}

// SendInputRequest is SendInput's.
type SendInputRequest struct {
	Process *ProcessSelector `wire:"1,process"`
	Input   *ProcessInput    `wire:"2,input"`
}

// ProcessInput is input for a process.
type ProcessInput struct {
	Stdin []byte `wire:"1,stdin,oneof=input"`
	PTY   []byte `wire:"2,pty,oneof=input"`
}

// StreamInputRequest is one event of StreamInput's stream.
type StreamInputRequest struct {
	Start     *InputStart `wire:"1,start,oneof=event"`
	Data      *InputData  `wire:"2,data,oneof=event"`
	Keepalive *Empty      `wire:"3,keepalive,oneof=event"`
}

// InputStart names the process that input is for.
type InputStart struct {
	Process *ProcessSelector `wire:"1,process"`
}

// InputData is a piece of input.
type InputData struct {
	Input *ProcessInput `wire:"2,input"`
}

// Signal is a number as in signal(7).
type Signal int32

// Names are those of the protocol; other numbers are signals too.
func (Signal) Names() map[int32]string {
	return map[int32]string{0: "SIGNAL_UNSPECIFIED", 9: "SIGNAL_SIGKILL", 15: "SIGNAL_SIGTERM"}
}

// SendSignalRequest is SendSignal's.
type SendSignalRequest struct {
	Process *ProcessSelector `wire:"1,process"`
	Signal  Signal           `wire:"2,signal"`
}

// CloseStdinRequest is CloseStdin's.
type CloseStdinRequest struct {
	Process *ProcessSelector `wire:"1,process"`
}

// ConnectRequest is Connect's.
type ConnectRequest struct {
	Process *ProcessSelector `wire:"1,process"`
	Offset  *int64           `wire:"100,offset,sint"`
}

// ProcessSelector names a process.
type ProcessSelector struct {
	PID *uint32 `wire:"1,pid,oneof=selector"`
	Tag *string `wire:"2,tag,oneof=selector"`
}
