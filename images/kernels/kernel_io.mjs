/*
 * The JavaScript kernel's second thread: owns the protocol's streams (descriptors 3 and 4) and the read ends of the
 * pipes behind 1 and 2, and works on while a cell keeps the first thread busy. See kernel.mjs for the guarantees.
 *
 * The first thread posts each event with a number and then writes a mark with that number into both pipes. An event
 * is sent when both marks have been read; a pipe that is ahead of the other waits for it.
 */
import { constants, openSync, rmSync, writeSync } from 'node:fs'
import inspector from 'node:inspector'
import { Socket } from 'node:net'
import path from 'node:path'
import { StringDecoder } from 'node:string_decoder'
import { parentPort, workerData } from 'node:worker_threads'

const MAX_REQUEST = 16 << 20 // bytes of a request's line
const MAX_WAITING = 1000 // requests that wait for the one that runs
const MAX_WAITING_SIZE = 64 << 20 // characters of their lines
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
  if (event.type === 'interrupted') return interrupted(event)
  if (event.type === 'end') return end(event)
  write(event)
  if (event.type === 'exit') process.exit()
}

// end ends the request that runs.
function end(event) {
  for (const pipe of pipes) pipe.text(pipe.decoder.end()) // Half characters too.
  write({ id: running, ...event })
  count = event.execution_count
  running = undefined
  clearTimeout(asking)
  asking = undefined
  next()
}

// interrupted ends the request that was to be interrupted, unless it has ended by itself before.
function interrupted({ turn: of, execution_count }) {
  if (of !== turn || running === undefined) return
  write({ id: running, ...INTERRUPTED })
  end({ type: 'end', status: 'interrupted', execution_count })
}

// --- requests -------------------------------------------------------------------------------------------------

const waiting = [] // requests that nobody has begun with
let waitingSize = 0 // characters of their lines
let running // the id of the request that the first thread has; undefined when there is none
let turn = 0 // the number of that request: ids may come again
let ended = false // whether no more requests come
let partial = []
let length = 0

const requests = new Socket({ fd: REQUESTS, readable: true, writable: false })
requests.on('data', (chunk) => {
  let start = 0
  for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, start)) {
    keep(chunk.subarray(start, at))
    take(length > MAX_REQUEST ? null : Buffer.concat(partial).toString())
    partial = []
    length = 0
    start = at + 1
  }
  keep(chunk.subarray(start))
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

// take lets a request wait for its turn, and heeds an interrupt at once.
function take(line) {
  if (line !== null && line.trim() === '') return
  const request = parse(line)
  if (request.interrupt) return interrupt(request.id)
  const size = line?.length ?? 0
  if (waiting.length === MAX_WAITING || waitingSize + size > MAX_WAITING_SIZE) {
    return refuse(request.id, 'too many requests wait already')
  }
  waiting.push({ ...request, size })
  waitingSize += size
  next()
}

// next hands on the next request when the one before has ended, and what was to break that off has had its effect.
function next() {
  while (running === undefined && !terminating && waiting.length > 0) begin(waiting.shift())
  if (ended && running === undefined && !terminating) {
    running = null
    parentPort.postMessage({})
  }
}

function begin({ id, request, problem, size }) {
  waitingSize -= size
  if (!request) {
    flush()
    current = id
    return refuse(id, problem)
  }
  running = id
  parentPort.postMessage({ execute: { ...request, turn: ++turn } })
}

function refuse(id, problem) {
  write({ id, type: 'error', name: 'BadRequest', value: problem, traceback: [] })
  write({ id, type: 'end', status: 'error', execution_count: count })
}

// --- interrupts -----------------------------------------------------------------------------------------------

const PATIENCE_MS = 50 // how long the first thread may take to answer before it is broken off
const SIGNAL_EVERY = 20 // times that it is asked: it may wait for a child that was not there at the first
const INTERRUPTED = { type: 'error', name: 'KeyboardInterrupt', value: 'the cell was interrupted', traceback: [] }

let session
let terminating = false
let asking // the timer of the next question, once the first thread was asked to leave what runs

// interrupt interrupts the request with that id, whether it runs or waits; without an id the one that runs.
function interrupt(id = running) {
  const at = waiting.findIndex((request) => request.id === id && request.request)
  if (typeof running === 'string' && id === running) {
    clearTimeout(asking)
    ask(0)
  } else if (at >= 0) {
    waitingSize -= waiting.splice(at, 1)[0].size
    write({ id, ...INTERRUPTED })
    write({ id, type: 'end', status: 'interrupted', execution_count: count })
  }
}

// signalGroup interrupts the cell's children. The kernel leads its process group, and ignores it.
function signalGroup() {
  try {
    process.kill(-process.pid, 'SIGINT')
  } catch { /* It leads none: then it has no children of its own in it either. */ }
}

// ask asks the first thread to leave the cell, again and again: the question itself may be broken off.
function ask(times) {
  if (times % SIGNAL_EVERY === 0) signalGroup()
  if (times > 0 && !terminating) terminate()
  parentPort.postMessage({ interrupt: turn })
  asking = setTimeout(ask, PATIENCE_MS, times + 1)
}

// terminate breaks off what JavaScript the first thread runs. If it runs none, it does nothing.
function terminate() {
  if (!session) {
    session = new inspector.Session()
    session.connectToMainThread()
  }
  terminating = true
  session.post('Runtime.terminateExecution', () => {
    terminating = false
    next()
  })
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
  if (request?.op === 'interrupt' && (id === undefined || typeof id === 'string')) return { id, interrupt: true }
  if (typeof id !== 'string' || id.length > 256) {
    return { id: '', problem: 'a request is an object with an id, a string of at most 256 characters' }
  }
  if (request.op !== 'execute') return { id, problem: 'op must be execute or interrupt' }
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
