// @ts-check
/** The gateway's page: who works, what runs, what waits and why. */

import { ENDED, RUNNING, WAITING, WORKERS } from './columns.js'
import { Gateway, Refused } from './gateway.js'
import { Table } from './table.js'
import { size } from './words.js'

/** @import { Overview, RunningJob, WaitingJob, WorkerView } from './gateway.js' */
/** @import { Action } from './table.js' */

const EVERY_MS = 2000
const LONGEST_MS = 30_000

const gateway = new Gateway()
let failures = 0
let asking = false
let again = false
/** @type {number | undefined} */
let timer

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id))
}

/** @type {Action<WorkerView>[]} */
const workerActions = [
  {
    label: (one) => (one.draining ? 'Take jobs again' : 'Drain'),
    about: (one) => one.id,
    run: (one) => act(one.draining ? 'undrain' : 'drain', one.id)
  },
  {
    label: (one) => (one.kind === 'joined' && one.state === 'silent' ? 'It is gone …' : null),
    about: (one) => one.id,
    run: (one) =>
      confirmed(
        `Is ${one.id} gone for good?`,
        'Say so only of a machine that will not come back.\n\n' +
          'The job that it had is started once more on another worker, or fails if it may not ' +
          'be repeated. If the machine is still computing, the work is done twice.',
        'It is gone',
        () => act('gone', one.id)
      )
  }
]

/** @type {Action<RunningJob>} */
const cancelRunning = {
  label: () => 'Cancel',
  about: (job) => job.id,
  run: (job) => act('cancel', job.id)
}

/** @type {Action<WaitingJob>[]} */
const waitingActions = [
  {
    label: (job) => (job.position === 1 || job.front ? null : 'To the front'),
    about: (job) => job.id,
    run: (job) => act('front', job.id)
  },
  { label: () => 'Cancel', about: (job) => job.id, run: (job) => act('cancel', job.id) }
]

const workers = new Table(byId('workers'), byId('no-workers'), WORKERS, workerActions)
const running = new Table(byId('running'), byId('no-running'), RUNNING, [cancelRunning])
const waiting = new Table(byId('waiting'), byId('no-waiting'), WAITING, waitingActions)
const ended = new Table(byId('ended'), byId('no-ended'), ENDED, [])

/** @param {Overview} seen */
function show(seen) {
  document.title = `${seen.endpoint}: ${seen.totals.running} run, ${seen.totals.waiting} wait`
  byId('endpoint').textContent = seen.endpoint
  byId('version').textContent = `Comfy Remote ${seen.version}`
  const totals = seen.totals
  showTotals([
    ['Running', `${totals.running}`],
    ['Waiting', `${totals.waiting} of at most ${totals.waiting_limit}`],
    ['Completed', `${totals.completed}`],
    ['Failed', `${totals.failed}`],
    ['Stored', `${size(totals.store)} of ${size(totals.store_limit)}`],
    ['Free on the disk', `${size(totals.disk_free)}, ${size(totals.disk_reserve)} stay free`]
  ])
  workers.show(seen.workers)
  running.show(seen.running)
  waiting.show(seen.waiting)
  ended.show(seen.ended)
  byId('purge').hidden = !seen.waiting.length
  byId('locked').hidden = true
  byId('open').hidden = false
  byId('forget').hidden = !gateway.token
}

/** @param {[string, string][]} totals */
function showTotals(totals) {
  const list = byId('totals')
  totals.forEach(([name, value], index) => {
    let group = list.children[index]
    if (group === undefined) {
      group = document.createElement('div')
      group.append(document.createElement('dt'), document.createElement('dd'))
      list.append(group)
    }
    const [term, amount] = group.children
    if (term.textContent !== name) term.textContent = name
    if (amount.textContent !== value) amount.textContent = value
  })
}

/** @param {string} words  @param {boolean} [lost] */
function showConnection(words, lost = false) {
  const line = byId('connection')
  if (line.textContent !== words) line.textContent = words
  line.classList.toggle('lost', lost)
}

/** @param {string} words  Empty for none. */
function showProblem(words) {
  const line = byId('problem')
  line.hidden = !words
  if (line.textContent !== words) line.textContent = words
}

/** @param {boolean} wrong  Whether a token was given, and is not the one. */
function lock(wrong) {
  gateway.token = ''
  byId('open').hidden = true
  for (const table of [workers, running, waiting, ended]) table.show([])
  byId('totals').replaceChildren()
  byId('forget').hidden = true
  byId('locked').hidden = false
  // The clients of Comfy Remote do not send it in plain http either.
  byId('sign-in').hidden = !window.isSecureContext
  byId('not-private').hidden = window.isSecureContext
  document.title = 'Comfy Remote'
  byId('endpoint').textContent = ''
  byId('version').textContent = ''
  showConnection('This gateway needs its token.')
  showProblem(wrong ? 'This is not the token of this gateway.' : '')
  if (window.isSecureContext) byId('token').focus()
}

/** Ask for the state, show it, and plan to ask again. */
async function refresh() {
  if (asking) {
    again = true
    return
  }
  asking = true
  window.clearTimeout(timer)
  /** @type {number | null} */
  let wait = EVERY_MS
  try {
    show(await gateway.overview())
    if (failures) showProblem('')
    failures = 0
    showConnection(`Updated every ${EVERY_MS / 1000} s.`)
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      lock(Boolean(gateway.token))
      wait = null
    } else {
      failures += 1
      wait = Math.min(LONGEST_MS, EVERY_MS * 2 ** Math.min(failures, 6))
      if (error instanceof Refused) showProblem(error.message)
      showConnection(`No answer. It is asked again every ${wait / 1000} s; this may be old.`, true)
    }
  } finally {
    asking = false
  }
  if (again) {
    again = false
    await refresh()
  } else if (wait !== null && !document.hidden) {
    timer = window.setTimeout(refresh, wait)
  }
}

/**
 * @param {Parameters<Gateway['act']>[0]} what
 * @param {string} [which]
 */
async function act(what, which) {
  try {
    await gateway.act(what, which)
    showProblem('')
  } catch (error) {
    showProblem(
      error instanceof Refused
        ? error.message
        : 'The gateway did not answer. What you asked for may have been done.'
    )
  }
  await refresh()
}

/**
 * Ask before something is done.
 *
 * @param {string} title
 * @param {string} words
 * @param {string} yes
 * @param {() => Promise<void>} run
 * @returns {Promise<void>}
 */
async function confirmed(title, words, yes, run) {
  const dialog = /** @type {HTMLDialogElement} */ (byId('confirm'))
  byId('confirm-title').textContent = title
  byId('confirm-words').textContent = words
  byId('confirm-yes').textContent = yes
  dialog.returnValue = 'no'
  dialog.showModal()
  await new Promise((resolve) => dialog.addEventListener('close', resolve, { once: true }))
  if (dialog.returnValue === 'yes') await run()
}

byId('sign-in').addEventListener('submit', (event) => {
  event.preventDefault()
  const field = /** @type {HTMLInputElement} */ (byId('token'))
  gateway.token = field.value.trim()
  field.value = ''
  showProblem('')
  void refresh()
})
byId('forget').addEventListener('click', () => {
  window.clearTimeout(timer)
  window.location.reload() // so that nothing of what was shown stays either
})
byId('purge').addEventListener('click', () => {
  void confirmed(
    'Cancel all jobs that wait?',
    'Jobs that run go on. What is cancelled does not come back.',
    'Cancel them',
    () => act('purge-queue')
  )
})
document.addEventListener('visibilitychange', () => {
  if (document.hidden) window.clearTimeout(timer)
  else if (!byId('open').hidden || failures) void refresh()
})
void refresh()
