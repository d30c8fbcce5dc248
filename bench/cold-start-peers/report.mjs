// What the function `report` does, in Node with the AWS SDK: read the fence in init; on the event look for interventions and write
// three objects.
import { GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";

const api = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime/invocation`;
const Bucket = process.env.BUCKET;
const s3 = new S3Client({ forcePathStyle: true });

async function read(Key) {
  try {
    await s3.send(new GetObjectCommand({ Bucket, Key }));
  } catch (error) {
    if (error.name !== "NoSuchKey") throw error;
  }
}

async function handle({ run }) {
  await read(`interventions/${run.id}.json`);
  for (const form of ["json", "md", "html"]) {
    await s3.send(new PutObjectCommand({ Bucket, Key: `reports/${run.id}/report.${form}`, Body: JSON.stringify(run) }));
  }
  return { key: `s3://${Bucket}/reports/${run.id}/report.html` };
}

async function main() {
  await read("fence/sparc.json");
  for (;;) {
    const got = await fetch(`${api}/next`);
    const request = got.headers.get("lambda-runtime-aws-request-id");
    const answer = JSON.stringify(await handle(await got.json()));
    await (await fetch(`${api}/${request}/response`, { method: "POST", body: answer })).text();
  }
}

main();
