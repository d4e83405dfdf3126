package http

import (
	"maps"
	"slices"
	"strings"
)

// Handler answers requests. It may be called at the same time.
type Handler interface {
	ServeHTTP(w ResponseWriter, r *Request)
}

// HandlerFunc is a function that is a Handler.
type HandlerFunc func(w ResponseWriter, r *Request)

// ServeHTTP calls f.
func (f HandlerFunc) ServeHTTP(w ResponseWriter, r *Request) { f(w, r) }

// ServeMux passes requests on by their method and path. A pattern is "/path" for every method or "METHOD /path", where GET
// means HEAD too; its last element may be a variable, as in "/ports/{port}". Routes are added before the first request.
type ServeMux struct {
	routes map[string]*route // by path, of which the variable is left out
}

type route struct {
	symbol   string // the variable's name
	handlers map[string]Handler
}

// NewServeMux returns a mux without routes.
func NewServeMux() *ServeMux { return &ServeMux{routes: map[string]*route{}} }

// HandleFunc adds a route.
func (m *ServeMux) HandleFunc(pattern string, f func(ResponseWriter, *Request)) {
	m.Handle(pattern, HandlerFunc(f))
}

// Handle adds a route.
func (m *ServeMux) Handle(pattern string, h Handler) {
	method, path, ok := strings.Cut(pattern, " ")
	if !ok {
		method, path = "", pattern
	}
	symbol := ""
	if before, name, ok := strings.Cut(path, "{"); ok {
		path, symbol = before, strings.TrimSuffix(name, "}")
	}
	at := m.routes[path]
	if at == nil {
		at = &route{symbol: symbol, handlers: map[string]Handler{}}
		m.routes[path] = at
	}
	at.handlers[method] = h
}

// ServeHTTP passes r on, or says that nobody is there for it.
func (m *ServeMux) ServeHTTP(w ResponseWriter, r *Request) {
	at := m.find(r)
	if at == nil {
		plain(w, StatusNotFound)
		return
	}
	h := at.handler(r.Method)
	if h == nil {
		w.Header().Set("Allow", at.allowed())
		plain(w, StatusMethodNotAllowed)
		return
	}
	h.ServeHTTP(w, r)
}

func (m *ServeMux) find(r *Request) *route {
	path := r.URL.Path
	if at := m.routes[path]; at != nil && at.symbol == "" {
		return at
	}
	slash := strings.LastIndexByte(path, '/') + 1
	at := m.routes[path[:slash]]
	if at == nil || at.symbol == "" || slash == len(path) {
		return nil
	}
	r.path, r.pathSymbol = path[slash:], at.symbol
	return at
}

func (r *route) handler(method string) Handler {
	if h := r.handlers[method]; h != nil {
		return h
	}
	if method == MethodHead && r.handlers[MethodGet] != nil {
		return r.handlers[MethodGet]
	}
	return r.handlers[""]
}

func (r *route) allowed() string {
	methods := slices.Collect(maps.Keys(r.handlers))
	if r.handlers[MethodGet] != nil {
		methods = append(methods, MethodHead)
	}
	slices.Sort(methods)
	return strings.Join(slices.Compact(methods), ", ")
}

// plain answers with a status and its name.
func plain(w ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(StatusText(status) + "\n")) // the caller is gone if this fails
}
