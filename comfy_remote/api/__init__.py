"""Comfy API v2 in front of any target, for the official SDKs and whatever else speaks it.

`front.ApiFront` is what one address serves, and `server.ApiServer` listens. From the inside out:

- `stored`, `blobs`, `asset_schema`, `asset_records`: files on disk and what is known of them;
  `assets`: all of that, for an event loop
- `posted`: what is posted for a job, with `references` to assets; `keys`, `room`, `target_nodes`:
  whether it is accepted
- `run`, `ended`: a job under way, and one that has ended; `recorded`: what the record has of it;
  `live`: what its listeners get; `outputs`: its files on their way into the store
- `lost_jobs`: jobs of which nobody knows whether the target has them; `listing`: lists of jobs
- `jobs`: all of that as one; `times`: how long it waits for what
- `asset_routes` with `upload` and `content`, `job_routes`, `event_routes`: HTTP; `shown`: answers;
  `errors`: refusals
- `beside_gateway`: the same beside a gateway's own API
"""
