-- wrk script of benchmarks/harness/load.py: POSTs one body repeatedly and prints the counters as one line of JSON.
-- Arguments: the Content-Type, and the file that holds the body.

function init(arguments)
  local file = assert(io.open(arguments[2], "rb"))
  wrk.method = "POST"
  wrk.headers["Content-Type"] = arguments[1]
  wrk.body = file:read("*a")
  file:close()
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nMEASURED {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "refused": %d, "lost": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
