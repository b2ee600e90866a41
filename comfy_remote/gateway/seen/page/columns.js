// @ts-check
/** What the page's tables show of each worker and job. */

import { attemptNote, duration, end, kind, memory, priority, size, whose, workerState } from './words.js'

/** @import { EndedJob, RunningJob, WaitingJob, WorkerView } from './gateway.js' */
/** @import { Column } from './table.js' */

/** @type {Column<WorkerView>[]} */
export const WORKERS = [
  { label: 'Worker', cell: (one) => ({ text: one.id, note: kind(one) }) },
  {
    label: 'State',
    cell: (one) => {
      const state = workerState(one)
      return { ...state, note: [...one.jobs, state.note].filter(Boolean).join('\n') }
    }
  },
  {
    label: 'GPU',
    cell: (one) => ({ text: one.device, note: one.memory ? memory(one.memory) : '' })
  },
  {
    label: 'Engine',
    cell: (one) => ({
      text: one.engine,
      note: one.version ? `Comfy Remote ${one.version}` : ''
    })
  },
  { label: 'Labels', cell: (one) => ({ text: one.labels.join(', ') }) },
  { label: 'Models of its last run', cell: (one) => ({ text: '', note: one.warm.join(', ') }) }
]

/** @type {Column<RunningJob>[]} */
export const RUNNING = [
  { label: 'Job', kind: 'id', cell: (job) => ({ text: job.id, note: attemptNote(job.attempt) }) },
  { label: 'Client', cell: whose },
  { label: 'Worker', cell: (job) => ({ text: job.worker }) },
  { label: 'For', kind: 'amount', cell: (job) => ({ text: duration(job.seconds) }) },
  {
    label: 'Progress',
    cell: (job) =>
      job.progress === null
        ? { text: '–' }
        : { text: `${Math.floor(job.progress * 100)} %`, bar: job.progress }
  }
]

/** @type {Column<WaitingJob>[]} */
export const WAITING = [
  { label: '#', kind: 'amount', cell: (job) => ({ text: String(job.position) }) },
  {
    label: 'Job',
    kind: 'id',
    cell: (job) => ({ text: job.id, note: attemptNote(job.attempt + 1) })
  },
  { label: 'Client', cell: whose },
  { label: 'Priority', kind: 'amount', cell: priority },
  { label: 'For', kind: 'amount', cell: (job) => ({ text: duration(job.seconds) }) },
  { label: 'Why it waits', cell: (job) => ({ text: job.why }) }
]

/** @type {Column<EndedJob>[]} */
export const ENDED = [
  { label: 'Job', kind: 'id', cell: (job) => ({ text: job.id, note: attemptNote(job.attempt) }) },
  { label: 'Client', cell: whose },
  { label: 'End', cell: end },
  { label: 'Worker', cell: (job) => ({ text: job.worker }) },
  {
    label: 'Ran',
    kind: 'amount',
    cell: (job) => ({ text: job.seconds === null ? 'never' : duration(job.seconds) })
  },
  {
    label: 'Files',
    kind: 'amount',
    cell: (job) => ({
      text: job.files ? `${job.files}` : '',
      note: job.files ? size(job.size) : ''
    })
  },
  { label: 'Ago', kind: 'amount', cell: (job) => ({ text: duration(job.ago) }) }
]
