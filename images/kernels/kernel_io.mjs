/*
 * The JavaScript kernel's second thread: owns the protocol's streams (descriptors 3 and 4) and the read ends of the
 * pipes behind 1 and 2, and works on while a cell keeps the first thread busy. See kernel.mjs for the guarantees.
 *
 * The first thread posts each event with a number and then writes a mark with that number into both pipes. An event
 * is sent when both marks have been read; a pipe that is ahead of the other waits for it.
 */
import { constants, openSync, rmSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'
import path from 'node:path'
import { StringDecoder } from 'node:string_decoder'
import { parentPort, workerData } from 'node:worker_threads'

const MAX_REQUEST = 16 << 20 // bytes of a request's line
const REQUESTS = 3
const EVENTS = 4
const MARK = Buffer.from(`\0${workerData.nonce}`)

const MAX_TEXT = 64 << 10 // characters of a stdout or stderr event
const GATHER_MS = 5 // how long output is gathered for before it is sent

const gathered = { type: '', text: '' }
let timer
const nap = new Int32Array(new SharedArrayBuffer(4))
let current = '' // the id of the latest request
let count = 0

// write sends an event, behind the text that was gathered.
function write(event) {
  flush()
  writeLine(event)
}

// writeLine sends one event and waits until it is taken: a slow reader slows the cell down, and nothing is lost.
function writeLine(event) {
  let rest = Buffer.from(`${JSON.stringify({ id: current, ...event })}\n`)
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(EVENTS, rest))
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error // Nobody listens any more: the process ends.
      Atomics.wait(nap, 0, 0, 2)
    }
  }
}

// --- output ---------------------------------------------------------------------------------------------------

class Pipe {
  constructor(name) {
    this.name = name
    this.seen = 0 // the number of the latest mark
    this.waiting = false // for the event of that mark to be sent
    this.rest = Buffer.alloc(0)
    this.decoder = new StringDecoder('utf8')
    const fd = openSync(path.join(workerData.pipes, name), constants.O_RDONLY | constants.O_NONBLOCK)
    this.socket = new Socket({ fd, readable: true, writable: false })
    this.socket.on('data', (chunk) => {
      this.rest = this.rest.length > 0 ? Buffer.concat([this.rest, chunk]) : chunk
      if (!this.waiting) this.read()
      deliver()
    })
  }

  // read sends the text up to the next mark.
  read() {
    const data = this.rest
    const at = markAt(data)
    const end = data.indexOf(0, at + MARK.length)
    this.text(this.decoder.write(data.subarray(0, at)))
    this.waiting = end >= 0 && at + MARK.length < data.length
    this.rest = data.subarray(this.waiting ? end + 1 : at)
    if (this.waiting) this.seen = Number(data.subarray(at + MARK.length, end))
  }

  text(text) {
    if (text === '') return
    if (gathered.type !== this.name || gathered.text.length + text.length > MAX_TEXT) flush()
    gathered.type = this.name
    gathered.text += text
    timer ??= setTimeout(flush, GATHER_MS)
  }
}

// flush sends the text that was gathered.
function flush() {
  clearTimeout(timer)
  timer = undefined
  if (gathered.text !== '') writeLine({ ...gathered })
  gathered.text = ''
}

// markAt returns where a mark, or what may become one, begins; the length when there is none.
function markAt(data) {
  for (let at = data.indexOf(0); at >= 0; at = data.indexOf(0, at + 1)) {
    const part = data.subarray(at, at + MARK.length)
    if (part.equals(MARK.subarray(0, part.length))) return at
  }
  return data.length
}

const pipes = [new Pipe('stdout'), new Pipe('stderr')]
rmSync(workerData.pipes, { recursive: true, force: true })
const posted = []

let delivered = 0

// deliver sends the events whose marks have been read in both pipes, and lets pipes go on behind them.
function deliver() {
  for (let ready = pipes; ready.length > 0;) {
    const both = Math.min(...pipes.map((pipe) => pipe.seen))
    while (posted.length > 0 && posted[0].sequence <= both) {
      delivered = posted[0].sequence
      emit(posted.shift().event)
    }
    ready = pipes.filter((pipe) => pipe.waiting && pipe.seen <= delivered)
    for (const pipe of ready) pipe.read()
  }
  for (const { waiting, socket } of pipes) {
    if (waiting) socket.pause()
    else socket.resume()
  }
}

function emit(event) {
  if (event.type === 'begin') {
    flush()
    current = event.id
    return writeLine({ type: 'begin' })
  }
  if (event.type === 'end') for (const pipe of pipes) pipe.text(pipe.decoder.end()) // Half characters too.
  write(event)
  if (event.type === 'exit') process.exit()
  if (event.type !== 'end') return
  count = event.execution_count
  busy = false
  next()
}

// --- requests -------------------------------------------------------------------------------------------------

const lines = []
let busy = false
let ended = false
let partial = []
let length = 0

const requests = new Socket({ fd: REQUESTS, readable: true, writable: false })
requests.on('data', (chunk) => {
  let start = 0
  for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, start)) {
    keep(chunk.subarray(start, at))
    lines.push(length > MAX_REQUEST ? null : Buffer.concat(partial).toString())
    partial = []
    length = 0
    start = at + 1
  }
  keep(chunk.subarray(start))
  next()
})
requests.on('error', () => finish())
requests.on('end', () => finish())

function keep(part) {
  length += part.length
  if (length > MAX_REQUEST) partial = []
  else partial.push(part)
}

function finish() {
  ended = true
  next()
}

// next hands on the next request when the one before has ended. The rest wait in the pipe.
function next() {
  while (!busy && lines.length > 0) begin(lines.shift())
  if (lines.length > 0) requests.pause()
  else requests.resume()
  if (ended && !busy) {
    busy = true
    parentPort.postMessage(null)
  }
}

function begin(line) {
  if (line !== null && line.trim() === '') return
  const { id, request, problem } = parse(line)
  if (request) {
    busy = true
    parentPort.postMessage(request)
    return
  }
  flush()
  current = id
  write({ type: 'error', name: 'BadRequest', value: problem, traceback: [] })
  write({ type: 'end', status: 'error', execution_count: count })
}

// parse returns the id that could be read, and the request or what is wrong with it.
function parse(line) {
  if (line === null) return { id: '', problem: `a request is one line of at most ${MAX_REQUEST} bytes` }
  let request
  try {
    request = JSON.parse(line)
  } catch (error) {
    return { id: '', problem: `not JSON: ${error.message.slice(0, 200)}` }
  }
  const id = request?.id
  if (typeof id !== 'string' || id.length > 256) {
    return { id: '', problem: 'a request is an object with an id, a string of at most 256 characters' }
  }
  if (request.op !== 'execute') return { id, problem: 'the only op is execute' }
  if (typeof request.code !== 'string') return { id, problem: 'code must be a string' }
  const env = request.env ?? {}
  if (typeof env !== 'object' || Array.isArray(env) || !Object.entries(env).every(isVariable)) {
    return { id, problem: 'env must be an object of strings' }
  }
  return { id, request: { id, code: request.code, env } }
}

function isVariable([name, value]) {
  return name !== '' && typeof value === 'string' && !name.includes('=') && !`${name}${value}`.includes('\0')
}

parentPort.on('message', (message) => {
  posted.push(message)
  deliver()
})
