// pty.*: create, input, resize, connect, kill.
import { AuthenticationError, CommandExitError, NotFoundError } from 'e2b'
import { add, equal, eventually, noSuchPid, otherUser, raises, short } from './suite.js'

// Shell is a terminal and what it has written so far.
class Shell {
  constructor(pty) {
    this.pty = pty
    this.text = ''
    this.decoder = new TextDecoder()
  }

  static async create(pty, options = {}) {
    const shell = new Shell(pty)
    shell.handle = await pty.create({ cols: 80, rows: 24, onData: (d) => shell.add(d), ...options })
    return shell
  }

  static async connect(pty, pid) {
    const shell = new Shell(pty)
    shell.handle = await pty.connect(pid, { onData: (d) => shell.add(d) })
    return shell
  }

  add(data) {
    this.text += this.decoder.decode(data, { stream: true })
  }

  type(text) {
    return this.pty.sendInput(this.handle.pid, new TextEncoder().encode(text))
  }

  async until(wanted) {
    await eventually(`${wanted} was written; seen: ${short(this.text)}`, () => this.text.includes(wanted))
  }

  async leave() {
    await this.type('exit 0\n')
    equal((await this.handle.wait()).exitCode, 0)
  }
}

add({
  async ptySizeAndInput({ pty }) {
    const shell = await Shell.create(pty)
    await shell.type('echo "[$(stty size) $TERM]"\n')
    await shell.until('[24 80 xterm-256color]')
    await shell.leave()
  },

  async ptyResize({ pty }) {
    const shell = await Shell.create(pty)
    await shell.type("trap 'echo resized to $(stty size)' WINCH; echo ready$((1 + 1))\n")
    await shell.until('ready2')
    await pty.resize(shell.handle.pid, { cols: 97, rows: 31 })
    await shell.type('echo "now $(stty size)"\n')
    await shell.until('resized to 31 97')
    await shell.until('now 31 97')
    await shell.leave()
  },

  async ptyOptions({ pty }) {
    const shell = await Shell.create(pty, { user: otherUser, cwd: '/usr/lib', envs: { MARK: 'of mine' } })
    await shell.type('echo "[$(id -un) $PWD $MARK]"\n')
    await shell.until(`[${otherUser} /usr/lib of mine]`)
    await shell.leave()
  },

  async ptyExitCode({ pty }) {
    const shell = await Shell.create(pty)
    await shell.type('exit 3\n')
    equal((await raises(CommandExitError, () => shell.handle.wait())).exitCode, 3)
  },

  async ptyInterrupt({ pty }) {
    const shell = await Shell.create(pty)
    await shell.type('(echo begun$((1 + 1)); sleep 600)\n')
    await shell.until('begun2')
    await shell.type('\x03')
    await shell.type('echo still here$((1 + 1))\n')
    await shell.until('still here2')
    await shell.leave()
  },

  async ptyKill({ pty }) {
    const shell = await Shell.create(pty)
    equal(await shell.handle.kill(), true)
    equal((await raises(CommandExitError, () => shell.handle.wait())).exitCode, -1)
    await eventually('it could not be killed again', async () => !(await pty.kill(shell.handle.pid)))
  },

  async ptyConnect({ pty }) {
    const shell = await Shell.create(pty)
    await shell.type('echo one$((1 + 1))\n')
    await shell.until('one2')
    await shell.handle.disconnect()
    const again = await Shell.connect(pty, shell.handle.pid)
    await again.type('echo two$((1 + 1))\n')
    await again.until('two2')
    await again.leave()
  },

  async ptyErrors({ pty }) {
    const options = { cols: 1, rows: 1, onData() {}, user: 'nobody-by-that-name' }
    await raises(AuthenticationError, () => pty.create(options))
    await raises(NotFoundError, () => pty.resize(noSuchPid, { cols: 1, rows: 1 }))
    await raises(NotFoundError, () => pty.sendInput(noSuchPid, new Uint8Array([1])))
    equal(await pty.kill(noSuchPid), false)
  },
})
