// What goes over plain HTTP: health, metrics, and the URLs that a browser could use.
import { add, equal, truth } from './suite.js'

function form(text) {
  const body = new FormData()
  body.append('file', new Blob([text]), 'x')
  return { method: 'POST', body }
}

add({
  async isRunning({ sandbox }) {
    equal(await sandbox.isRunning(), true)
  },

  async metrics({ sandbox, debug }) {
    // The client asks the control plane, not envd, and in debug mode nobody.
    equal((await sandbox.getMetrics()).length === 0, debug)
  },

  async downloadAndUploadUrls({ sandbox, files, dir }) {
    const path = `${dir}/for a browser ü+&.txt`
    await files.write(path, 'by url')
    const answer = await fetch(await sandbox.downloadUrl(path))
    equal([answer.status, await answer.text()], [200, 'by url'])
    equal((await fetch(await sandbox.uploadUrl(path), form('by form'))).status, 200)
    equal(await files.read(path), 'by form')
  },

  async signedUrls({ sandbox, files, dir, debug }) {
    const path = `${dir}/signed`
    await files.write(path, 'secret')
    const plain = await sandbox.downloadUrl(path, { user: 'root' })
    equal(plain.includes('signature'), !debug)
    if (debug) return // no token to sign with
    const url = await sandbox.downloadUrl(path, { useSignatureExpiration: 60 })
    truth(url.includes('signature_expiration='), url)
    equal(await (await fetch(url)).text(), 'secret')
    equal((await fetch(await sandbox.uploadUrl(path, { useSignatureExpiration: 60 }), form('changed'))).status, 200)
    equal(await files.read(path), 'changed')
    for (const [bad, why] of [
      [plain + 'x', 'invalid signature'],
      [await sandbox.downloadUrl(path, { useSignatureExpiration: -10 }), 'signature is already expired'],
    ]) {
      const answer = await fetch(bad)
      equal([answer.status, (await answer.json()).message], [401, why])
    }
  },
})
