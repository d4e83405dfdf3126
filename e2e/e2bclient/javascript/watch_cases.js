// files.watchDir: events as a stream.
import { FileNotFoundError, FilesystemEventType as Kind, InvalidArgumentError } from 'e2b'
import { add, equal, eventually, raises, truth } from './suite.js'

// Watched is a watcher and its events so far.
class Watched {
  static async begin({ files }, path, options = {}) {
    const w = new Watched()
    w.events = []
    w.ended = false
    const onExit = () => void (w.ended = true)
    w.handle = await files.watchDir(path, (e) => void w.events.push(e), { onExit, ...options })
    return w
  }

  until(name, type) {
    return eventually(`${type} of ${name} was reported`, () =>
      this.events.find((e) => e.name === name && e.type === type))
  }

  async stop() {
    await this.handle.stop()
    await eventually('the watch had ended', () => this.ended)
  }
}

add({
  async watchEachKind(run) {
    const path = run.path('watched')
    await run.files.makeDir(path)
    const w = await Watched.begin(run, path)
    await run.files.write(`${path}/f`, 'content')
    await w.until('f', Kind.CREATE)
    await w.until('f', Kind.WRITE)
    await run.commands.run(`chmod 600 ${path}/f`)
    await w.until('f', Kind.CHMOD)
    await run.files.rename(`${path}/f`, `${path}/g`)
    await w.until('f', Kind.RENAME)
    await run.files.remove(`${path}/g`)
    await w.until('g', Kind.REMOVE)
    await w.stop()
    const before = w.events.length
    await run.files.write(`${path}/after`, 'x')
    equal(w.events.length, before)
  },

  async watchRecursively(run) {
    const path = run.path('tree')
    await run.files.makeDir(`${path}/sub`)
    const w = await Watched.begin(run, path, { recursive: true })
    await run.files.write(`${path}/sub/inner`, 'x')
    await w.until('sub/inner', Kind.WRITE)
    await run.files.makeDir(`${path}/later`)
    await w.until('later', Kind.CREATE)
    await run.files.write(`${path}/later/f`, 'x')
    await w.until('later/f', Kind.WRITE)
    await w.stop()
  },

  async watchIsNotRecursive(run) {
    const path = run.path('flat')
    await run.files.makeDir(`${path}/sub`)
    const w = await Watched.begin(run, path)
    await run.files.write(`${path}/sub/inner`, 'x')
    await run.files.write(`${path}/outer`, 'x')
    await w.until('outer', Kind.WRITE)
    truth(!w.events.some((e) => e.name.includes('inner')), 'an event of a directory below')
    await w.stop()
  },

  async watchWithEntries(run) {
    const path = run.path('described events')
    await run.files.makeDir(path)
    const w = await Watched.begin(run, path, { includeEntry: true })
    await run.files.write(`${path}/f`, '12345')
    const { entry } = await w.until('f', Kind.WRITE)
    equal([entry.name, entry.path], ['f', `${path}/f`])
    await w.stop()
  },

  async watchErrors(run) {
    await run.files.write(run.path('a file'), '')
    await raises(FileNotFoundError, () => run.files.watchDir(run.path('absent'), () => {}))
    await raises(InvalidArgumentError, () => run.files.watchDir(run.path('a file'), () => {}))
  },
})
