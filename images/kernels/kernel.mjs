/*
 * The JavaScript kernel of a code interpreter context: runs cells and keeps their bindings.
 *
 * It speaks the protocol of docs/design/context-protocol.md, version 2. The script kernel-javascript starts
 * it, with the protocol's streams at descriptors 3 and 4 and pipes at 1 and 2; kernel_io.mjs, a thread, reads and
 * writes them all. The guarantees:
 *
 * - Nothing but events reaches the protocol's stream: what anything writes to descriptors 1 and 2 comes back
 *   through pipes, also while a cell keeps this thread busy.
 * - Events keep their place in the output: for each, a mark is written into both pipes, and the other thread sends
 *   it when it has read both marks.
 * - An interrupt ends the running cell and nothing else: a cell that awaits is left behind, and what keeps this
 *   thread busy, at whatever place, is broken off by the other one through the inspector. So any function here may
 *   be broken off anywhere, and what it was doing is lost: the other thread asks again until it has an answer.
 * - Neither an exception nor a rejection nor process.exit() ends the kernel.
 *
 * It is no fence: cells run in this thread and may do with the process what they like. Node 18 or newer, no packages.
 */
import { randomBytes } from 'node:crypto'
import { constants, openSync, writeSync } from 'node:fs'
import inspector from 'node:inspector'
import { createRequire, isBuiltin } from 'node:module'
import path from 'node:path'
import { Writable } from 'node:stream'
import { pathToFileURL } from 'node:url'
import util from 'node:util'
import vm from 'node:vm'
import { Worker } from 'node:worker_threads'

const PROTOCOL = 2
const MAX_RESULT = 8 << 20 // bytes of a result: all its representations but text/plain, which has a limit of its own
const MAX_PLAIN = 1 << 20 // characters of text/plain, which is cut instead of left out
const MAX_MESSAGE = 64 << 10 // characters of an error's value
const MAX_TRACEBACK = 200 // lines
const MAX_LINE = 4 << 10 // characters of a line of a traceback
const MAX_NODES = 1_000_000 // of a value that is looked through for being plain data

const nextTurn = setImmediate
const reallyExit = process.reallyExit.bind(process)
const inspect = (value) => util.inspect(value, { depth: 4, maxArrayLength: 1000, maxStringLength: MAX_PLAIN })
const clip = (text, limit) => (text.length <= limit ? text : `${text.slice(0, limit)}… (cut: ${text.length} characters)`)

// --- events ---------------------------------------------------------------------------------------------------

const pipes = process.argv[2]
const nonce = randomBytes(16).toString('hex')
// Opened anew: user code may close or replace 1 and 2.
const marks = ['stdout', 'stderr'].map((name) => openSync(path.join(pipes, name), constants.O_WRONLY))
const io = new Worker(new URL('./kernel_io.mjs', import.meta.url), { workerData: { pipes, nonce } })
let sequence = 0

// send hands an event on, in its place in the output. The mark is short enough to be written in one piece (PIPE_BUF).
function send(event) {
  const mark = `\0${nonce}${++sequence}\0`
  io.postMessage({ sequence, event })
  for (const fd of marks) writeSync(fd, mark)
}

function writeAll(fd, data) {
  for (let rest = data; rest.length > 0;) {
    try {
      rest = rest.subarray(writeSync(fd, rest))
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2) // A child made the shared pipe non-blocking.
    }
  }
}

// replaceStream makes process.stdout or process.stderr write at once. It keeps no state: it may be broken off anywhere.
function replaceStream(name, fd) {
  const stream = new Writable({ write: (chunk, encoding, done) => done() })
  stream.write = (chunk, encoding, done) => {
    const callback = typeof encoding === 'function' ? encoding : done
    writeAll(fd, typeof chunk === 'string' ? Buffer.from(chunk, typeof encoding === 'string' ? encoding : 'utf8') : Buffer.from(chunk))
    if (callback) process.nextTick(callback)
    return true
  }
  stream.fd = fd
  Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => stream })
  return stream
}

const stderr = replaceStream('stderr', 2)
replaceStream('stdout', 1)
const note = (text) => stderr.write(`[kernel] ${text}\n`)

// --- errors ---------------------------------------------------------------------------------------------------

class Exit extends Error {
  name = 'Exit'
  constructor(code) {
    super(`process.exit(${code})`)
    this.code = code
  }
}

// traceback returns the lines of an error's stack without the kernel's and Node's own frames.
function traceback(error) {
  const lines = String(error.stack ?? error).split('\n')
  const own = (line) => /^\s+at .*(node:|\/kernel(_io)?\.mjs)/.test(line)
  const last = lines.findLastIndex((line) => /^\s+at .*\bcell-\d+:/.test(line))
  const kept = (last < 0 ? lines : lines.slice(0, last + 1)).filter((line) => !own(line))
  return kept.slice(0, MAX_TRACEBACK).map((line) => clip(line, MAX_LINE))
}

// errorEvent never throws, whatever was thrown: its properties may be accessors that throw.
function errorEvent(error, where) {
  try {
    if (!util.types.isNativeError(error) && !(error instanceof Error)) {
      const value = clip(inspect(error), MAX_MESSAGE)
      return { type: 'error', name: 'Thrown', value, traceback: [`Uncaught ${value}`] }
    }
    const lines = traceback(error)
    if (where && !lines.some((line) => line.includes('cell-'))) lines.push(`    at ${where}`)
    return { type: 'error', name: String(error.name), value: clip(String(error.message), MAX_MESSAGE), traceback: lines }
  } catch {
    return { type: 'error', name: 'Error', value: 'what was thrown cannot be shown', traceback: [] }
  }
}

// --- results --------------------------------------------------------------------------------------------------

// plain says whether JSON shows a value as it is: arrays and simple objects of numbers, strings, booleans and null.
function plain(value, budget = { nodes: MAX_NODES }, depth = 0) {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return true
  if (typeof value === 'number') return Number.isFinite(value)
  if (typeof value !== 'object' || depth > 100 || --budget.nodes < 0 || util.types.isProxy(value)) return false
  if (Array.isArray(value)) return value.every((item) => plain(item, budget, depth + 1))
  const prototype = Object.getPrototypeOf(value)
  if (prototype !== null && prototype !== Object.prototype) return false
  return Object.values(Object.getOwnPropertyDescriptors(value))
    .every((property) => 'value' in property && plain(property.value, budget, depth + 1))
}

function bundle(value) {
  const own = value?.[Symbol.for('Jupyter.display')] // Deno's convention, which libraries follow.
  if (typeof own === 'function') return own.call(value)
  const data = { 'text/plain': inspect(value) }
  if (typeof value === 'object' && value !== null && plain(value)) data['application/json'] = value
  return data
}

const isBundle = (value) => typeof value === 'object' && value !== null && Object.keys(value).length > 0 &&
  Object.keys(value).every((key) => /^[a-z]+\/[\w.+-]+$/.test(key))

// show sends a result: bytes as base64, long text cut, what is too big left out and named.
function show(data, main) {
  const event = { type: 'result', main, data: {} }
  let total = 0
  for (const [mime, value] of Object.entries(data)) {
    let sent = ArrayBuffer.isView(value) ? Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') : value
    if (mime === 'text/plain') sent = clip(String(value), MAX_PLAIN)
    const size = Buffer.byteLength(JSON.stringify(sent) ?? '')
    if (size === 0) continue
    const counted = mime === 'text/plain' ? 0 : size
    if (total + counted <= MAX_RESULT) {
      total += counted
      event.data[mime] = JSON.parse(JSON.stringify(sent)) // As it is now, and fit for another thread.
      continue
    }
    event.omitted = { ...event.omitted, [mime]: size }
    note(`${mime} was left out: ${size} bytes, of at most ${MAX_RESULT} for a result`)
  }
  send(event)
}

function display(...values) {
  for (const value of values) show(isBundle(value) ? value : bundle(value), false)
}

// --- imports --------------------------------------------------------------------------------------------------

// importModule is import() as a file in the working folder would call it.
function importModule(specifier, options) {
  const name = String(specifier)
  const filename = path.join(process.cwd(), 'cell.js')
  const loader = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER
  if (loader) {
    const script = new vm.Script('(name, options) => import(name, options)', { filename, importModuleDynamically: loader })
    return quietly(() => script.runInThisContext()(name, options))
  }
  // Node 18 has no such loader: what is not a package by its `import` condition alone is found as require finds it.
  if (isBuiltin(name) || /^[a-z]+:/.test(name)) return import(name, options)
  return import(pathToFileURL(createRequire(filename).resolve(name)), options)
}

// quietly calls a function without the warning that what it uses is an experiment of Node's.
function quietly(call) {
  const { emitWarning } = process
  process.emitWarning = () => {}
  try {
    return call()
  } finally {
    process.emitWarning = emitWarning
  }
}

const NAMED = String.raw`\{[^}]*\}`
const CLAUSE = String.raw`(?:([\w$]+)\s*,?\s*)?(?:(${NAMED})|\*\s*as\s+([\w$]+))?`
// Strings and comments come first, so that what looks like an import within them is passed over.
const REWRITTEN = new RegExp([
  String.raw`\/\/[^\n]*|\/\*[^]*?\*\/|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|${'`'}(?:\\.|[^${'`'}\\])*${'`'}`,
  String.raw`(?<=^[ \t]*)import\s+(?:${CLAUSE}\s*from\s*)?(?<from>'[^'\n]*'|"[^"\n]*")`,
  String.raw`(?<![.\w$])import(?=\s*\()`,
  String.raw`(?<=^|;[ \t]*)(?:const|var)(?=\s+[\w$[{])`,
].join('|'), 'gm')

// rewrite replaces import declarations and import(), which V8 does not offer to code evaluated as this is, and makes
// all variables of a cell's outermost level `let`: one that was declared may be declared again as the same kind only.
function rewrite(code) {
  return code.replace(REWRITTEN, (text, name, named, space, from) => {
    if (text === 'import') return '__import'
    if (text === 'const' || text === 'var') return 'let'.padEnd(text.length)
    if (from === undefined) return text
    const members = named ? [named.slice(1, -1).replace(/\bas\b/g, ':')] : []
    if (name) members.unshift(`default: ${name}`)
    const module = `await __import(${from})`
    if (space) return `let ${space} = ${module}${name ? `, ${name} = ${space}.default` : ''};`
    return members.length > 0 ? `let { ${members.join(', ')} } = ${module};` : `${module};`
  })
}

// --- cells ----------------------------------------------------------------------------------------------------

const session = new inspector.Session()
session.connect()
const CALL = Symbol.for('wrenn.call')

// actual returns the value that a RemoteObject of the inspector stands for.
function actual(remote) {
  if (!remote.objectId) {
    if (remote.unserializableValue === undefined) return remote.subtype === 'null' ? null : remote.value
    return remote.type === 'bigint' ? BigInt(remote.unserializableValue.slice(0, -1)) : Number(remote.unserializableValue)
  }
  let value
  globalThis[CALL] = (it) => { value = it }
  const functionDeclaration = 'function () { "use strict"; globalThis[Symbol.for("wrenn.call")](this) }'
  session.post('Runtime.callFunctionOn', { objectId: remote.objectId, functionDeclaration })
  delete globalThis[CALL]
  return value
}

let cell // the one that runs; undefined between two
let count = 0 // of cells

// newCell returns what runs as a request.
function newCell(turn, env) {
  const made = { turn, env, before: Object.keys(env).map((name) => [name, process.env[name]]) }
  made.failure = new Promise((resolve, reject) => { made.fail = reject })
  made.failure.catch(() => {}) // Nobody has to handle it.
  return made
}

// during waits for a promise or for the cell's failure. It never returns to a cell that was left.
async function during(mine, promise) {
  const value = await Promise.race([mine.failure, promise])
  return cell === mine ? value : new Promise(() => {})
}

// evaluate runs a cell's code as a console would: bindings stay and may be declared again, and await works.
function evaluate(code) {
  const expression = `${rewrite(code)}\n//# sourceURL=cell-${count}`
  return new Promise((resolve, reject) => {
    session.post('Runtime.evaluate', { expression, replMode: true, awaitPromise: true, objectGroup: 'cell' }, (error, result) => {
      if (!error) resolve(result)
      else if (!error.message.includes('terminated')) reject(new Error(error.message)) // Else it was broken off.
    })
  })
}

// run runs a cell and shows its last value; a promise is awaited.
async function run(mine, code) {
  const { result, exceptionDetails: thrown } = await during(mine, evaluate(code))
  if (thrown) {
    const where = `cell-${count}:${thrown.lineNumber + 1}:${thrown.columnNumber + 1}`
    throw Object.assign(new Thrown(), { error: actual(thrown.exception), where })
  }
  let value = actual(result)
  if (util.types.isPromise(value)) value = await during(mine, value)
  // One turn of the loop shows the rejections that nobody handles.
  await during(mine, new Promise((resolve) => nextTurn(resolve)))
  if (value === undefined) return
  globalThis._ = value
  show(bundle(value), true)
}

// Thrown carries what a cell threw: anything, also undefined.
class Thrown {}

async function statusOf(mine, code) {
  try {
    await run(mine, code)
    return 'ok'
  } catch (caught) {
    const error = caught instanceof Thrown ? caught.error : caught
    if (error instanceof Exit && !error.code) return 'ok'
    if (cell === mine) send(errorEvent(error, caught.where))
    return 'error'
  }
}

async function execute({ id, turn, code, env }) {
  const mine = cell = newCell(turn, env)
  count++
  Object.assign(process.env, env)
  takeSignals()
  send({ type: 'begin', id })
  const status = await statusOf(mine, code)
  if (cell !== mine) return
  leave()
  send({ type: 'end', status, execution_count: count })
}

// leave makes the running cell one that has ended, also if its code still awaits something.
function leave() {
  for (const [name, value] of cell.before) {
    if (process.env[name] !== cell.env[name]) continue // The cell changed it: that stays.
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }
  cell = undefined
  session.post('Runtime.releaseObjectGroup', { objectGroup: 'cell' })
}

// interrupt leaves the cell of a request, if it runs, and says so in any case.
function interrupt(turn) {
  if (cell?.turn === turn) leave()
  send({ type: 'interrupted', turn, execution_count: count })
}

// --- the process ----------------------------------------------------------------------------------------------

const ignore = () => {}

// takeSignals ignores SIGINT, which is for the cell's children, also after user code removed the listener: without
// any it kills.
function takeSignals() {
  if (!process.listeners('SIGINT').includes(ignore)) process.on('SIGINT', ignore)
}

function onUncaught(error) {
  if (error instanceof Exit) {
    cell?.fail(error)
    return
  }
  const event = errorEvent(error)
  stderr.write(`Uncaught ${event.traceback.join('\n')}\n`)
  send(event)
}

function defineGlobals() {
  const module = { exports: {} }
  const __dirname = process.cwd()
  const __filename = path.join(__dirname, 'cell.js')
  const require = createRequire(__filename)
  require.main = module
  const globals = { require, module, exports: module.exports, __dirname, __filename, display, __import: importModule }
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false })
  }
  process.argv.length = 1
  process.exit = (code) => { throw new Exit(code ?? process.exitCode ?? 0) }
}

process.on('uncaughtException', onUncaught)
process.on('unhandledRejection', (reason) => (cell ? cell.fail(reason) : onUncaught(reason)))
takeSignals()
defineGlobals()
io.on('message', (message) => {
  if (message.execute) execute(message.execute)
  else if (message.interrupt !== undefined) interrupt(message.interrupt)
  else {
    process.emit('exit', 0)
    send({ type: 'exit' })
  }
})
io.on('error', () => reallyExit(1))
io.on('exit', (code) => reallyExit(code))
// Only now, as from here on SIGINT ends no kernel.
send({ type: 'ready', protocol: PROTOCOL, language: 'javascript', version: process.versions.node })
