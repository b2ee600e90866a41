// @ts-check
/** Amounts and states as people read them. */

/** @import { EndedJob, WaitingJob, WorkerView } from './gateway.js' */

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  const whole = Math.floor(seconds)
  if (whole < 60) return `${whole} s`
  const two = (/** @type {number} */ number) => String(number).padStart(2, '0')
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  if (hours >= 48) return `${Math.floor(hours / 24)} days`
  return hours
    ? `${hours}:${two(minutes)}:${two(whole % 60)} h`
    : `${minutes}:${two(whole % 60)} min`
}

/** @param {number} bytes */
export function size(bytes) {
  let amount = bytes
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (amount < 999.5) return `${amount.toFixed(amount >= 100 || unit === 'B' ? 0 : 1)} ${unit}`
    amount /= 1000
  }
  return `${amount.toFixed(1)} TB`
}

/**
 * A GPU's memory, in the units that its box has.
 *
 * @param {number} bytes
 */
export function memory(bytes) {
  const gigabytes = bytes / 2 ** 30
  return `${gigabytes.toFixed(gigabytes < 1 ? 1 : 0)} GB`
}

/**
 * @param {WorkerView} worker
 * @returns {{ text: string, note?: string, tone: string }}
 */
export function workerState(worker) {
  const time = worker.seconds === null ? '' : ` for ${duration(worker.seconds)}`
  const after = worker.draining ? 'It takes no more jobs after that.' : ''
  switch (worker.state) {
    case 'idle':
      return { text: `Idle${time}`, tone: 'good' }
    case 'running':
      return { text: `Runs a job${time}`, note: after, tone: 'busy' }
    case 'starting':
      return { text: `Starting${time}`, tone: '' }
    case 'drained':
      return { text: 'Drained', note: 'It takes no jobs.', tone: 'warn' }
    case 'silent':
      return {
        text: `Silent${time}`,
        note: worker.jobs.length ? 'Its job waits for it.' : after,
        tone: 'warn'
      }
    case 'broken':
      return { text: 'Could not start', note: worker.why, tone: 'bad' }
    default:
      return { text: String(worker.state), tone: '' }
  }
}

/** @type {Record<string, string>} */
const KINDS = {
  local: 'on this machine',
  url: 'a ComfyUI that runs by itself',
  sdk: "RunPod's SDK, on this machine",
  joined: 'joined'
}

/** @param {WorkerView} worker */
export function kind(worker) {
  return KINDS[worker.kind] ?? worker.kind
}

const ENDS = {
  COMPLETED: { text: 'Completed', tone: 'good' },
  FAILED: { text: 'Failed', tone: 'bad' },
  CANCELLED: { text: 'Cancelled', tone: '' },
  TIMED_OUT: { text: 'Timed out', tone: 'bad' }
}

/** @param {EndedJob} job */
export function end(job) {
  return { ...ENDS[job.state], note: job.code }
}

/** @param {{ client: string, batch: string }} job */
export function whose(job) {
  return { text: job.client || '–', note: job.batch ? `batch ${job.batch}` : '' }
}

/** @param {number} attempt */
export function attemptNote(attempt) {
  return attempt > 1 ? `attempt ${attempt}` : ''
}

/** @param {WaitingJob} job */
export function priority(job) {
  return { text: String(job.priority), note: job.low ? 'low' : job.front ? 'front' : '' }
}
