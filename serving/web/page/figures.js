// What two documents of the stack say together: rates, and percentiles of what was answered between them.

/** Values added up over all models. */
function sums(stack) {
  const latency = stack.latency_bounds_s.map(() => 0).concat(0);
  const found = { answered: 0, refused: 0, failed: 0, latency, batches: {} };
  for (const model of stack.models) {
    for (const [status, count] of Object.entries(model.requests)) {
      if (status === "200") found.answered += count;
      else if (Number(status) >= 500) found.failed += count;
      else found.refused += count;
    }
    model.latency.forEach((count, i) => (latency[i] += count));
    for (const [rows, count] of Object.entries(model.batches)) found.batches[rows] = (found.batches[rows] ?? 0) + count;
  }
  return found;
}

/** The time in seconds below which that part of the requests was answered; null where there were none. */
export function percentile(bounds, counts, part) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  let below = 0;
  for (let i = 0; i < counts.length; i++) {
    if (below + counts[i] >= part * all) {
      const [least, most] = [i ? bounds[i - 1] : 0, bounds[i] ?? bounds.at(-1)];
      return least + ((part * all - below) / counts[i]) * (most - least);
    }
    below += counts[i];
  }
  return bounds.at(-1);
}

/** The figures between an earlier and a later document. */
export function figures(before, now) {
  const [old, all] = [sums(before), sums(now)];
  const seconds = Math.max(0.001, (now.time_ms - before.time_ms) / 1000);
  const less = (after, earlier) => Math.max(0, after - earlier);
  const latency = all.latency.map((count, i) => less(count, old.latency[i]));
  const batches = Object.entries(all.batches).map(([rows, count]) => [Number(rows), less(count, old.batches[rows] ?? 0)]);
  const total = (of) => of.answered + of.refused + of.failed;
  return {
    rate: less(total(all), total(old)) / seconds,
    refused: less(all.refused, old.refused) / seconds,
    failed: less(all.failed, old.failed) / seconds,
    p50: percentile(now.latency_bounds_s, latency, 0.5),
    p99: percentile(now.latency_bounds_s, latency, 0.99),
    open: now.open_requests,
    batches: batches.filter(([, count]) => count).sort((a, b) => a[0] - b[0]),
    totals: all,
  };
}
