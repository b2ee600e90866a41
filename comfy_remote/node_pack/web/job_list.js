// @ts-check
/** The panel's jobs: those in progress, and those that have ended lately. */

import { button, element, icon } from './dom.js'
import { getRecentJobs } from './job_requests.js'
import { expectedOf, hasFailed, nameOf, progressOf, resultOf } from './job_words.js'
import { t } from './words.js'

/** @import { JobActions } from './job_actions.js' */
/** @import { ListedJob } from './job_requests.js' */
/** @import { Job } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */
/** @import { Today } from './spending_api.js' */

const POLL_MS = 3000
const SOON_MS = 300
const CLOCK_MS = 1000
const WAITING_SHOWN = 5
const FEW = 10
const MANY = 300

/**
 * What the server's list says, with what its messages have said since.
 *
 * The rows stay the same elements as long as their jobs last: updates come several times a
 * second, and a button that is replaced while it is being pressed is never clicked.
 *
 * @param {RemoteState} state
 * @param {JobActions} actions
 * @param {(today: Today | undefined) => void} showToday
 * @returns {{root: HTMLElement, show: () => void}}
 */
export function makeJobList(state, actions, showToday) {
  const counts = element('span', { class: 'comfy-remote-quiet' })
  const stopAll = button(
    { class: 'comfy-remote-button comfy-remote-small', onclick: () => actions.cancelAll(active.length) },
    t('cancelAll')
  )
  const none = element('p', { class: 'comfy-remote-quiet' }, t('noJobs'))
  const running = element('ul', { class: 'comfy-remote-jobs comfy-remote-scroll' })
  const unfold = more(() => {
    allWaiting = true
    show()
  })
  const endedCaption = element('h4', {}, t('endedToday'))
  const ended = element('ul', { class: 'comfy-remote-jobs comfy-remote-scroll' })
  const older = more(() => {
    limit = MANY
    void ask()
  })
  const root = element(
    'div',
    { class: 'comfy-remote-joblist' },
    element('header', {}, element('h3', {}, t('jobs')), counts, stopAll),
    none,
    running,
    unfold,
    endedCaption,
    ended,
    older
  )
  const runningRows = keyed(running, (job) => runningRow(job, actions))
  const endedRows = keyed(ended, (job) => endedRow(job, actions))

  /** @type {ListedJob[]} */
  let listed = []
  /** @type {ListedJob[]} */
  let active = []
  let known = ''
  let limit = FEW
  let allWaiting = false
  let hasMore = false
  // The server's clock less this browser's, in seconds.
  let clock = 0
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let soon

  const ask = async () => {
    try {
      const answer = await getRecentJobs(limit)
      clock = answer.now - Date.now() / 1000
      listed = answer.jobs
      hasMore = answer.more
      showToday(answer.today)
      show()
    } catch {
      // The panel says that the server does not answer; what was listed stays.
    }
  }

  const show = () => {
    const now = Date.now() / 1000 + clock
    active = inProgress(state.jobs, listed, now)
    const waiting = active.filter((job) => job.state === 'queued')
    const folded = allWaiting ? [] : waiting.slice(WAITING_SHOWN)
    runningRows.show(
      active.filter((job) => !folded.includes(job)),
      (row, job) => row.show(job, now, state.cancelling.has(job.prompt_id))
    )
    unfold.hidden = folded.length === 0
    unfold.textContent = t('moreWaiting', { count: folded.length })
    none.hidden = active.length > 0
    stopAll.hidden = active.length < 2
    counts.textContent =
      active.length > 1
        ? t('jobCounts', { running: active.length - waiting.length, waiting: waiting.length })
        : ''
    const done = listed.filter((job) => job.ended !== null)
    endedRows.show(done, (row, job) => row.show(job))
    endedCaption.hidden = done.length === 0
    older.hidden = !hasMore || limit === MANY
    older.textContent = t('moreEnded')

    // A job that has begun, changed or ended: the list knows more of it than the message said.
    const states = state.jobs.map((job) => `${job.prompt_id} ${job.state}`).join()
    if (states !== known) {
      known = states
      clearTimeout(soon)
      soon = setTimeout(ask, SOON_MS)
    }
  }

  void ask()
  const poll = setInterval(() => document.hidden || void ask(), POLL_MS)
  let away = 0
  const ticking = setInterval(() => {
    if (root.isConnected || ++away < 3) {
      if (active.length > 0 && !document.hidden) show()
      return
    }
    clearInterval(poll)
    clearInterval(ticking)
    clearTimeout(soon)
  }, CLOCK_MS)
  return { root, show }
}

/** @param {() => void} onclick */
function more(onclick) {
  return button({ class: 'comfy-remote-link', hidden: true, onclick })
}

/**
 * @param {Job[]} live  Those that this ComfyUI follows, as its messages say.
 * @param {ListedJob[]} listed
 * @param {number} now
 * @returns {ListedJob[]} In the order of a queue: what runs, then what waits, the oldest first.
 */
function inProgress(live, listed, now) {
  const byId = new Map(listed.map((job) => [job.prompt_id, job]))
  const followed = live.map((job) => ({ ...(byId.get(job.prompt_id) ?? justBegun(job, now)), ...job }))
  const others = listed.filter((job) => job.ended === null && !job.followed)
  const jobs = /** @type {ListedJob[]} */ ([...followed, ...others])
  const place = (/** @type {ListedJob} */ job) => (job.state === 'queued' ? 1 : 0)
  return jobs.sort((one, other) => place(one) - place(other) || one.created - other.created)
}

/**
 * @param {Job} job
 * @param {number} now
 * @returns {Omit<ListedJob, 'state' | 'fraction' | 'estimated'>} Until the server has listed it.
 */
function justBegun(job, now) {
  return {
    prompt_id: job.prompt_id,
    target: job.target,
    followed: true,
    kind: 'job',
    name: '',
    client_id: job.client_id ?? null,
    created: job.created ?? now,
    started: null,
    ended: null,
    seen: now,
    message: '',
    phase: null,
    remaining: null,
    run_seconds: null,
    cost: null,
    expected: null,
    member: null,
    cached: null,
    outputs: 0,
    error: null,
    attempt: 1,
    again: false,
    batch: null
  }
}

/**
 * Rows in a list, each made once and shown again.
 *
 * @template {{root: HTMLElement}} Row
 * @param {HTMLElement} list
 * @param {(job: ListedJob) => Row} make
 */
function keyed(list, make) {
  /** @type {Map<string, Row>} */
  let rows = new Map()
  /** @type {(jobs: ListedJob[], show: (row: Row, job: ListedJob) => void) => void} */
  const show = (jobs, showOne) => {
    const shown = jobs.map((job) => {
      const row = rows.get(job.prompt_id) ?? make(job)
      showOne(row, job)
      return /** @type {const} */ ([job.prompt_id, row])
    })
    const elements = shown.map(([, row]) => row.root)
    const same = elements.length === list.children.length
    if (!same || elements.some((row, place) => row !== list.children[place])) {
      list.replaceChildren(...elements)
    }
    list.hidden = elements.length === 0
    rows = new Map(shown)
  }
  return { show }
}

/**
 * @param {ListedJob} job
 * @param {JobActions} actions
 */
function runningRow(job, actions) {
  const words = element('span', { class: 'comfy-remote-quiet' })
  const bar = element('progress', { max: '1' })
  const stop = button(
    {
      class: 'comfy-remote-icon',
      title: t('cancelOnGpu'),
      'aria-label': t('cancelJob', { id: job.prompt_id }),
      onclick: () => actions.cancel(job.prompt_id)
    },
    icon('times')
  )
  const name = element('span', { class: 'comfy-remote-name', title: job.prompt_id })
  const root = element(
    'li',
    { 'data-prompt-id': job.prompt_id },
    element('div', { class: 'comfy-remote-job' }, name, stop),
    bar,
    words
  )
  /** @type {(job: ListedJob, now: number, cancelling: boolean) => void} */
  const show = (job, now, cancelling) => {
    name.textContent = nameOf(job)
    words.textContent = cancelling ? t('cancelling') : progressOf(job, now)
    stop.disabled = cancelling
    bar.classList.toggle('comfy-remote-estimated', job.estimated)
    bar.hidden = job.state === 'queued'
    if (job.state === 'running' && job.fraction !== null) bar.value = job.fraction
    else bar.removeAttribute('value')
  }
  return { root, show }
}

/**
 * @param {ListedJob} job
 * @param {JobActions} actions
 */
function endedRow(job, actions) {
  const state = icon('check')
  const name = element('span', { class: 'comfy-remote-name', title: job.prompt_id })
  const words = element('span', { class: 'comfy-remote-quiet comfy-remote-result' })
  const expected = element('span', { class: 'comfy-remote-quiet' })
  const reason = element('span', { class: 'comfy-remote-quiet comfy-remote-clamped' })
  const open = small('openOutputs', () => actions.open(job.prompt_id, nameOf(job)))
  const why = small('why', () => actions.why(job.prompt_id, nameOf(job)))
  const again = small('runAgain', async () => {
    again.disabled = true
    await actions.runAgain(job)
    again.disabled = false
  })
  const root = element(
    'li',
    { 'data-ended-id': job.prompt_id },
    element('div', { class: 'comfy-remote-job' }, state, name),
    element('div', { class: 'comfy-remote-job' }, words, open, why, again),
    expected,
    reason
  )
  /** @type {(job: ListedJob) => void} */
  const show = (job) => {
    const failed = hasFailed(job)
    const symbol = failed ? 'times-circle' : job.state === 'cancelled' ? 'ban' : 'check-circle'
    state.className = `pi pi-${symbol}`
    root.classList.toggle('comfy-remote-failed', failed)
    name.textContent = nameOf(job)
    words.textContent = resultOf(job)
    words.title = words.textContent
    expected.textContent = expectedOf(job)
    expected.hidden = expected.textContent === ''
    reason.textContent = job.error ?? ''
    reason.hidden = job.error === null
    open.hidden = job.outputs === 0
    why.hidden = !failed
    again.hidden = !job.again
  }
  return { root, show }
}

/**
 * @param {keyof import('./words.js').Words} word
 * @param {() => void} onclick
 */
function small(word, onclick) {
  return button({ class: 'comfy-remote-button comfy-remote-small', onclick }, t(word))
}
