// Rounds of calls by @grpc/grpc-js: reads what to call from stdin as JSON, writes what came of it to stdout.
//
// Messages are bytes in base64 on both sides, so that no .proto files are needed here.
"use strict";

const grpc = require("@grpc/grpc-js");

const same = (bytes) => bytes;
const INFER = "/inference.GRPCInferenceService/ModelInfer";
const STREAM = "/inference.GRPCInferenceService/ModelStreamInfer";

function opened(target, options) {
  // A connection of its own: Node miscounts its memory once a large message was cut off, and then refuses answers.
  const usual = { "grpc.max_receive_message_length": -1, "grpc.use_local_subchannel_pool": 1 };
  return new grpc.Client(target, grpc.credentials.createInsecure(), { ...usual, ...options });
}

// What comes of one call: the answer, or the status and its text; and the trailers.
function asked(client, message, { metadata = {}, cancelAfterMs, ...options } = {}) {
  return new Promise((resolve) => {
    const sent = new grpc.Metadata();
    for (const [name, value] of Object.entries(metadata)) sent.set(name, value);
    const came = { code: 0 };
    const call = client.makeUnaryRequest(INFER, same, same, message, sent, options, (error, answer) => {
      if (error) Object.assign(came, { code: error.code, details: error.details });
      else came.answer = answer.toString("base64");
    });
    call.on("status", (status) => resolve({ ...came, trailers: status.metadata.getMap() }));
    if (cancelAfterMs !== undefined) setTimeout(() => call.cancel(), cancelAfterMs);
  });
}

// The answers to messages that are sent on one stream, in the order in which they come.
function streamed(client, messages) {
  return new Promise((resolve, reject) => {
    const call = client.makeBidiStreamRequest(STREAM, same, same);
    const answers = [];
    call.on("data", (answer) => answers.push(answer.toString("base64")));
    call.on("error", reject);
    call.on("end", () => resolve(answers));
    for (const message of messages) call.write(message);
    call.end();
  });
}

async function main(input) {
  const { target, messages, large, unknown } = JSON.parse(input, (_, value) =>
    typeof value === "string" && value.startsWith("base64:") ? Buffer.from(value.slice(7), "base64") : value,
  );
  const client = opened(target);
  const packing = opened(target, { "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip });
  const pinging = opened(target, { "grpc.keepalive_time_ms": 20, "grpc.keepalive_timeout_ms": 5000 });
  const leaving = opened(target);
  const soon = () => new Date(Date.now() + 10_000);
  const results = {
    one: await asked(client, messages[0], { metadata: { "x-request-id": "from-js" }, deadline: soon() }),
    many: await Promise.all(messages.map((message) => asked(client, message))),
    packed: await asked(packing, messages[0]),
    large: await asked(client, large),
    packedLarge: await asked(packing, large),
    unknown: await asked(client, unknown),
    late: await asked(leaving, large, { deadline: new Date(Date.now() + 1) }),
    left: await asked(leaving, large, { cancelAfterMs: 0 }),
    streamed: await streamed(client, messages),
    pinging: [await asked(pinging, messages[0]), await new Promise((next) => setTimeout(next, 300)), await asked(pinging, messages[0])],
  };
  for (const each of [client, packing, pinging, leaving]) each.close();
  process.stdout.write(JSON.stringify(results));
}

let input = "";
process.stdin.on("data", (part) => (input += part));
process.stdin.on("end", () => main(input).catch((error) => { console.error(error); process.exit(1); }));
