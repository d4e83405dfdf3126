// What the rest of the suite is made of: cases, and what they share.
//
// A case is a function that takes a Run. The runner prints one JSON line a case and a last one
// that says how many there were, from which the Go test makes subtests.

import { randomUUID } from 'node:crypto'
import { isDeepStrictEqual, inspect } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { Sandbox } from 'e2b'

export const patience = 30_000 // milliseconds to wait for what must happen: VMs are emulated
export const otherUser = 'daemon' // an account of every Debian that is neither root nor the default
export const noSuchPid = 4_000_000

const cases = new Map()

// add adds named functions to the suite.
export function add(functions) {
  for (const [name, run] of Object.entries(functions)) cases.set(name, run)
}

// Run is a sandbox and a folder of its own in it.
class Run {
  static async begin() {
    const run = new Run()
    run.debug = process.env.E2B_DEBUG === 'true'
    run.sandbox = await Sandbox.create(process.env.WRENN_TEST_TEMPLATE ?? 'base')
    run.commands = run.sandbox.commands
    run.files = run.sandbox.files
    run.pty = run.sandbox.pty
    run.dir = `/tmp/e2b-js-${randomUUID()}`
    // By a command, so that the cases about commands do not need the filesystem service.
    await run.commands.run(`mkdir -m 777 ${run.dir}`)
    return run
  }

  async end() {
    await this.commands.run(`rm -rf ${this.dir}`, { user: 'root' })
  }

  path(name) {
    return `${this.dir}/${name}`
  }
}

export function equal(got, want) {
  if (!isDeepStrictEqual(got, want)) throw new Error(`got ${short(got)}, want ${short(want)}`)
}

export function truth(condition, what) {
  if (!condition) throw new Error(what)
}

export function short(value) {
  const text = inspect(value, { depth: 4 })
  return text.length < 300 ? text : `${text.slice(0, 150)}…${text.slice(-100)} (${text.length} characters)`
}

// raises calls f, which must throw exactly kind, and returns what it threw.
export async function raises(kind, f) {
  let value
  try {
    value = await f()
  } catch (error) {
    if (error.constructor !== kind) {
      throw new Error(`threw ${error.constructor.name}(${error.message}), want ${kind.name}`, { cause: error })
    }
    return error
  }
  throw new Error(`returned ${short(value)}, want ${kind.name}`)
}

// eventually waits until check returns something true, and returns that.
export async function eventually(what, check) {
  const deadline = Date.now() + patience
  while (Date.now() < deadline) {
    const value = await check()
    if (value) return value
    await sleep(50)
  }
  throw new Error(`waited in vain until ${what}`)
}

async function report(name, f, run) {
  const begin = Date.now()
  const line = { case: name, ok: true }
  try {
    await f(run)
  } catch (error) {
    Object.assign(line, { ok: false, error: `${error.constructor.name}: ${error.message}`, trace: error.stack })
  }
  line.seconds = (Date.now() - begin) / 1000
  console.log(JSON.stringify(line))
}

export async function main() {
  const only = process.argv.slice(2)
  const run = await Run.begin()
  let count = 0
  for (const [name, f] of cases) {
    if (only.length && !only.includes(name)) continue
    await report(name, f, run)
    count++
  }
  await run.end()
  console.log(JSON.stringify({ done: count }))
}
