"""What the function `report` does, in Python with boto3: read the fence in init; on the event look for interventions and write three
objects."""
import json
import os
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

API = f"http://{os.environ['AWS_LAMBDA_RUNTIME_API']}/2018-06-01/runtime/invocation"
BUCKET = os.environ["BUCKET"]
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))


def read(key):
    try:
        s3.get_object(Bucket=BUCKET, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchKey":
            raise


def handle(event):
    run = event["run"]
    read(f"interventions/{run['id']}.json")
    for form in ("json", "md", "html"):
        s3.put_object(Bucket=BUCKET, Key=f"reports/{run['id']}/report.{form}", Body=json.dumps(run).encode())
    return {"key": f"s3://{BUCKET}/reports/{run['id']}/report.html"}


read("fence/sparc.json")
while True:
    with urllib.request.urlopen(f"{API}/next") as got:
        request, event = got.headers["lambda-runtime-aws-request-id"], json.load(got)
    answer = json.dumps(handle(event)).encode()
    urllib.request.urlopen(f"{API}/{request}/response", data=answer).read()
