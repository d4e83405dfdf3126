// Drives an envd with E2B's released JavaScript client: see suite.js.
import './command_cases.js'
import './terminal_cases.js'
import './file_cases.js'
import './watch_cases.js'
import './url_cases.js'
import { main } from './suite.js'

await main()
process.exit(0) // the client keeps connections, and with them the process
