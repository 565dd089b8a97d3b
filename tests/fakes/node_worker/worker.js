// A tool on the runtime of the package @bazel/worker: writes the upper case of its inputs, one after the other, to a file.
//
//   node worker.js @FILE                  once; FILE holds the arguments, one a line
//   node worker.js --persistent_worker    proto requests on stdin, one at a time; the runtime knows no cancel
//
// Arguments: --output=PATH, --repeat=N (how often the whole is written), --fail=TEXT, and the inputs.
'use strict';
const fs = require('fs');
const path = require('path');
const {log, runAsWorker, runWorkerLoop} = require('@bazel/worker');

let requests = 0;

function build(args, inputs) {
  requests += 1;
  const flags = new Map();
  const files = [];
  for (const arg of args) {
    const flag = /^--([a-z]+)=(.*)$/s.exec(arg);
    if (flag) {
      flags.set(flag[1], flag[2]);
    } else if (!arg.startsWith('--')) {
      files.push(arg);
    }
  }
  if (flags.has('fail')) {
    log(`node_worker: ${flags.get('fail')}`);
    return false;
  }
  const output = flags.get('output');
  if (output === undefined || files.length === 0) {
    log('node_worker: --output=PATH and inputs are needed');
    return false;
  }
  // A runtime of long-lived modules: what it reads must be this request's, whatever it read before.
  const text = files.map((file) => fs.readFileSync(file, 'utf8').toUpperCase()).join('');
  fs.mkdirSync(path.dirname(output), {recursive: true});
  fs.writeFileSync(output, text.repeat(Number(flags.get('repeat') ?? 1)));
  log(`node_worker: pid ${process.pid} request ${requests} declared ${Object.keys(inputs ?? {}).length}`);
  return true;
}

const args = process.argv.slice(2);
if (runAsWorker(args)) {
  runWorkerLoop((given, inputs) => build(given, inputs));
} else {
  const given = args.flatMap((arg) =>
    arg.startsWith('@') ? fs.readFileSync(arg.slice(1), 'utf8').split('\n').filter(Boolean) : [arg]);
  try {
    process.exitCode = build(given, {}) ? 0 : 1;
  } catch (error) {
    log(String(error));
    process.exitCode = 1;
  }
}
