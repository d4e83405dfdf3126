# The promises of this template alone; images/base/smoke.sh comes first and defines check.
# shellcheck shell=sh
check "node is 20" sh -c 'node --version | grep "^v20\."'
check "node runs code" prints 42 node -e 'console.log(6 * 7)'
check "npm" npm --version
check "npx" npx --version
check "npm installs a package of this machine" sh -c 'mkdir -p /tmp/a /tmp/b && cd /tmp/a && npm init -y && cd /tmp/b && npm init -y && npm install --no-audit --no-fund --offline /tmp/a && test -e node_modules/a/package.json'
check "global packages are the user's" prints /home/user/.local npm prefix -g
check "workers and crypto" node -e 'require("crypto").randomBytes(8); new (require("worker_threads").Worker)("process.exit(0)", { eval: true })'
check "git" git --version
check "the JavaScript kernel keeps variables" kernel_keeps javascript 'const x = 41' 'x + 1' 42
