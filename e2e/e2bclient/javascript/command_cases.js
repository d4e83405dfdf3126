// commands.*: run, background, stdin, connect, list, kill, timeouts.
import { createHash, randomUUID } from 'node:crypto'
import { AuthenticationError, CommandExitError, InvalidArgumentError, NotFoundError, TimeoutError } from 'e2b'
import { add, equal, eventually, noSuchPid, otherUser, raises, truth } from './suite.js'

const sha256 = (data) => createHash('sha256').update(data).digest('hex')

add({
  async runGivesBothStreams({ commands }) {
    const r = await commands.run('echo out; echo err >&2')
    equal([r.stdout, r.stderr, r.exitCode, r.error], ['out\n', 'err\n', 0, undefined])
  },

  async runExitCode({ commands }) {
    const e = await raises(CommandExitError, () => commands.run('echo before; echo why >&2; exit 7'))
    equal([e.exitCode, e.stdout, e.stderr, e.error], [7, 'before\n', 'why\n', 'exit status 7'])
  },

  async runEndedByASignal({ commands }) {
    const e = await raises(CommandExitError, () => commands.run('kill -TERM $$'))
    equal([e.exitCode, e.error], [-1, 'signal: terminated'])
  },

  async runEnvs({ commands }) {
    const r = await commands.run('echo "$ONE|$TWO"', { envs: { ONE: 'a b', TWO: 'ü=$HOME' } })
    equal(r.stdout, 'a b|ü=$HOME\n')
  },

  async runCwd({ commands, dir }) {
    equal((await commands.run('pwd', { cwd: '/usr/lib' })).stdout, '/usr/lib\n')
    await raises(InvalidArgumentError, () => commands.run('pwd', { cwd: `${dir}/absent` }))
  },

  async runUser({ commands }) {
    for (const user of ['root', otherUser]) {
      equal((await commands.run('id -un; echo $USER', { user })).stdout, `${user}\n${user}\n`)
    }
    await raises(AuthenticationError, () => commands.run('true', { user: 'nobody-by-that-name' }))
  },

  async runCallbacks({ commands }) {
    const out = []
    const err = []
    await commands.run('for i in 1 2 3; do echo $i; echo -$i >&2; sleep 0.05; done', {
      onStdout: (s) => void out.push(s),
      onStderr: (s) => void err.push(s),
    })
    equal([out.join(''), err.join('')], ['1\n2\n3\n', '-1\n-2\n-3\n'])
    truth(out.length > 1, `all output came at once: ${out}`)
  },

  async runTimeoutKills({ commands }) {
    const mark = randomUUID()
    const begin = Date.now()
    await raises(TimeoutError, () => commands.run(`sleep 600 # ${mark}`, { timeoutMs: 1000 }))
    truth(Date.now() - begin < 20_000, 'the timeout did not end the call')
    const listed = async () => (await commands.list()).some((p) => p.args.some((a) => a.includes(mark)))
    await eventually('the command was gone', async () => !(await listed()))
  },

  async listShowsWhatRuns({ commands }) {
    const command = `sleep 600 # ${randomUUID()}`
    const handle = await commands.run(command, { background: true, envs: { MARK: 'm' }, cwd: '/usr' })
    const found = (await commands.list()).filter((p) => p.pid === handle.pid)
    await handle.kill()
    equal(found.map((p) => [p.cmd, p.args, p.envs.MARK, p.cwd]), [['/bin/bash', ['-l', '-c', command], 'm', '/usr']])
    await handle.wait().catch(() => {})
    await eventually('it was not listed', async () => !(await commands.list()).some((p) => p.pid === handle.pid))
  },

  async backgroundWait({ commands }) {
    const handle = await commands.run('sleep 0.3; echo late; exit 5', { background: true })
    truth(handle.pid > 0, `pid ${handle.pid}`)
    const e = await raises(CommandExitError, () => handle.wait())
    equal([e.exitCode, e.stdout, handle.exitCode], [5, 'late\n', 5])
  },

  async kill({ commands }) {
    const handle = await commands.run('sleep 600', { background: true })
    equal(await handle.kill(), true)
    const e = await raises(CommandExitError, () => handle.wait())
    equal([e.exitCode, e.error], [-1, 'signal: killed'])
    await eventually('it could not be killed again', async () => !(await commands.kill(handle.pid)))
  },

  async stdin({ commands }) {
    const handle = await commands.run('cat; echo end', { background: true, stdin: true })
    await handle.sendStdin('first ü\n')
    await commands.sendStdin(handle.pid, new Uint8Array([0x41, 0x42, 0x0a]))
    await handle.closeStdin()
    equal((await handle.wait()).stdout, 'first ü\nAB\nend\n')
  },

  async stdinLarge({ commands }) {
    const handle = await commands.run('sha256sum', { background: true, stdin: true })
    const pieces = Array.from({ length: 16 }, (_, i) => Buffer.alloc(65536, 65 + i))
    for (const piece of pieces) await commands.sendStdin(handle.pid, new Uint8Array(piece))
    await commands.closeStdin(handle.pid)
    equal((await handle.wait()).stdout.split(' ')[0], sha256(Buffer.concat(pieces)))
  },

  async stdinAbsent({ commands }) {
    equal((await commands.run('cat; echo over', { timeoutMs: 10_000 })).stdout, 'over\n')
  },

  async connect({ commands }) {
    const first = await commands.run('read line; echo got $line; exit 4', { background: true, stdin: true })
    await first.disconnect()
    const second = await commands.connect(first.pid)
    equal(second.pid, first.pid)
    await commands.sendStdin(first.pid, 'it\n')
    const e = await raises(CommandExitError, () => second.wait())
    equal([e.exitCode, e.stdout], [4, 'got it\n'])
  },

  async connectTwice({ commands }) {
    const first = await commands.run('read line; echo $line', { background: true, stdin: true })
    const readers = [first, await commands.connect(first.pid), await commands.connect(first.pid)]
    await commands.sendStdin(first.pid, 'for all\n')
    for (const reader of readers) equal((await reader.wait()).stdout, 'for all\n')
  },

  async callsOnNoProcess({ commands }) {
    await raises(NotFoundError, () => commands.sendStdin(noSuchPid, 'x'))
    await raises(NotFoundError, () => commands.closeStdin(noSuchPid))
    await raises(NotFoundError, () => commands.connect(noSuchPid))
    equal(await commands.kill(noSuchPid), false)
  },

  async bigOutput({ commands }) {
    const r = await commands.run("head -c 16777216 /dev/zero | tr '\\0' x; head -c 1048576 /dev/zero | tr '\\0' y >&2")
    equal([r.stdout.length, r.stderr.length], [16 << 20, 1 << 20])
    truth(/^x*$/.test(r.stdout) && /^y*$/.test(r.stderr), 'the streams were mixed')
  },

  async charactersAreNotTorn({ commands }) {
    const r = await commands.run("printf 'aé漢𝄞%.0s' $(seq 20000)")
    truth(r.stdout === 'aé漢𝄞'.repeat(20000), `${r.stdout.length} characters, and not the ones written`)
  },

  async manyAtOnce({ commands }) {
    const all = await Promise.all(Array.from({ length: 20 }, (_, i) => commands.run(`echo ${i}; sleep 0.2`)))
    equal(all.map((r) => r.stdout), Array.from({ length: 20 }, (_, i) => `${i}\n`))
  },
})
