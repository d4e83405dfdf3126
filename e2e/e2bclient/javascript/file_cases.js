// files.*: reading, writing, and everything about entries but watching.
import { randomBytes } from 'node:crypto'
import { AuthenticationError, FileNotFoundError, FileType, InvalidArgumentError } from 'e2b'
import { add, equal, otherUser, raises, truth } from './suite.js'

const user = 'nobody-by-that-name'
const same = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)) === 0
const arrayBuffer = (b) => b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength)

async function drain(stream) {
  const pieces = []
  for await (const piece of stream) pieces.push(piece)
  return Buffer.concat(pieces)
}

add({
  async writeAndReadText({ files, dir }) {
    const path = `${dir}/text ü.txt`
    const info = await files.write(path, 'grüße\n')
    equal([info.name, info.path, info.type], ['text ü.txt', path, FileType.FILE])
    equal(await files.read(path), 'grüße\n')
    await files.write(path, 'new')
    equal(await files.read(path), 'new')
  },

  async writeAndReadInEachForm({ files, dir }) {
    const data = randomBytes(3 << 20)
    const forms = [arrayBuffer(data), new Blob([data]), new Blob([data]).stream()]
    for (const [i, form] of forms.entries()) {
      const path = `${dir}/form ${i}`
      await files.write(path, form)
      truth(same(await files.read(path, { format: 'bytes' }), data), `form ${i} as bytes`)
      truth(same(await (await files.read(path, { format: 'blob' })).arrayBuffer(), data), `form ${i} as a blob`)
      truth(same(await drain(await files.read(path, { format: 'stream' })), data), `form ${i} as a stream`)
    }
  },

  async writeOctetStreamAndGzip({ files, dir }) {
    const text = 'squeeze me '.repeat(10000)
    await files.write(`${dir}/octets`, text, { useOctetStream: true })
    equal(await files.read(`${dir}/octets`), text)
    await files.write(`${dir}/zipped`, text, { gzip: true })
    equal((await files.getInfo(`${dir}/zipped`)).size, text.length)
    truth((await files.read(`${dir}/zipped`, { gzip: true })) === text, 'it came back differently')
  },

  async writeEmpty({ files, dir }) {
    await files.write(`${dir}/empty`, '')
    equal(await files.read(`${dir}/empty`), '')
  },

  async writeSeveral({ files, dir }) {
    const paths = ['several/a', 'several/deep/er/b', 'several/ü c'].map((n) => `${dir}/${n}`)
    const infos = await files.write(paths.map((path) => ({ path, data: path })))
    equal(infos.map((i) => i.path), paths)
    equal(await Promise.all(paths.map((p) => files.read(p))), paths)
  },

  async writeAsUser({ files, dir }) {
    await files.write(`${dir}/by daemon/file`, 'x', { user: otherUser })
    for (const name of ['by daemon', 'by daemon/file']) {
      const info = await files.getInfo(`${dir}/${name}`)
      equal([info.owner, info.group], [otherUser, otherUser])
    }
  },

  async metadata({ files, dir }) {
    const info = await files.write(`${dir}/described`, 'x', { metadata: { kind: 'note' } })
    equal(info.metadata, { kind: 'note' })
    equal((await files.getInfo(`${dir}/described`)).metadata, { kind: 'note' })
  },

  async errors({ files, dir }) {
    for (const format of ['text', 'bytes', 'blob', 'stream']) {
      await raises(FileNotFoundError, () => files.read(`${dir}/absent`, { format }))
    }
    await raises(InvalidArgumentError, () => files.read(dir))
    await raises(InvalidArgumentError, () => files.write(dir, 'a directory'))
    await raises(AuthenticationError, () => files.read(`${dir}/absent`, { user }))
    await raises(AuthenticationError, () => files.write(`${dir}/x`, 'x', { user }))
    await raises(AuthenticationError, () => files.list(dir, { user }))
  },

  async list({ files, dir }) {
    for (const name of ['b', 'a', 'sub/deep/c']) await files.write(`${dir}/list/${name}`, name)
    const entries = await files.list(`${dir}/list`)
    equal(entries.map((e) => [e.name, e.type, e.path]).sort(), [
      ['a', FileType.FILE, `${dir}/list/a`],
      ['b', FileType.FILE, `${dir}/list/b`],
      ['sub', FileType.DIR, `${dir}/list/sub`],
    ])
    const deep = await files.list(`${dir}/list`, { depth: 2 })
    equal(deep.map((e) => e.name).sort(), ['a', 'b', 'deep', 'sub'])
    await raises(FileNotFoundError, () => files.list(`${dir}/absent`))
    await raises(InvalidArgumentError, () => files.list(`${dir}/list/a`))
  },

  async existsAndInfo({ files, commands, dir }) {
    const path = `${dir}/info`
    await files.write(path, '12345', { user: 'root' })
    await commands.run(`chmod 640 ${path}`, { user: 'root' })
    const i = await files.getInfo(path)
    equal([i.name, i.path, i.type, i.size], ['info', path, FileType.FILE, 5])
    equal([i.mode & 0o777, i.permissions, i.owner, i.group], [0o640, '-rw-r-----', 'root', 'root'])
    truth(Math.abs(i.modifiedTime - Date.now()) < 3_600_000, `modified ${i.modifiedTime}`)
    equal([await files.exists(path), await files.exists(dir), await files.exists(`${dir}/absent`)], [true, true, false])
    await raises(FileNotFoundError, () => files.getInfo(`${dir}/absent`))
  },

  async symbolicLink({ files, commands, dir }) {
    await files.write(`${dir}/aim`, 'aim')
    await commands.run(`ln -s aim ${dir}/link`)
    equal((await files.getInfo(`${dir}/link`)).symlinkTarget, `${dir}/aim`)
    equal((await files.getInfo(`${dir}/aim`)).symlinkTarget, undefined)
  },

  async makeDir({ files, dir }) {
    equal(await files.makeDir(`${dir}/made/with/parents`), true)
    equal(await files.makeDir(`${dir}/made/with/parents`), false)
    await files.write(`${dir}/made/file`, '')
    await raises(InvalidArgumentError, () => files.makeDir(`${dir}/made/file`))
  },

  async renameAndRemove({ files, dir }) {
    await files.write(`${dir}/old/f`, 'content')
    const moved = await files.rename(`${dir}/old/f`, `${dir}/new/g`)
    equal([moved.name, moved.path, moved.type], ['g', `${dir}/new/g`, FileType.FILE])
    equal([await files.exists(`${dir}/old/f`), await files.read(`${dir}/new/g`)], [false, 'content'])
    await raises(FileNotFoundError, () => files.rename(`${dir}/absent`, `${dir}/other`))
    await files.remove(`${dir}/new`)
    equal(await files.exists(`${dir}/new`), false)
    await files.remove(`${dir}/new`)
  },

  async largeFile({ files, dir }) {
    const piece = randomBytes(1 << 20)
    let left = 64
    const stream = new ReadableStream({
      pull: (controller) => (left-- > 0 ? controller.enqueue(new Uint8Array(piece)) : controller.close()),
    })
    await files.write(`${dir}/large`, stream)
    let size = 0
    for await (const part of await files.read(`${dir}/large`, { format: 'stream' })) size += part.length
    equal(size, 64 << 20)
    await files.remove(`${dir}/large`)
  },
})
