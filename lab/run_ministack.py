"""Runs ministack with seven things put right.

Seen on ministack 1.5.33, each against the page of AWS's documentation that is named where it is mended:

1. A health check's booleans are answered as `True` and `False`, where XML, and every SDK, says `true` and `false`: an inverted
   check, on which our switch rests, reads as an ordinary one.
2. An alarm that changes its state sends no event, so no rule on it ever starts anything.
3. Metrics that a function writes in the embedded metric format stay lines of its log.
4. A Parallel state of a JSONata machine forgets its `Assign` and `Output`, and its branches share one set of variables.
5. Policies that demand TLS refuse everything here, where all is plain HTTP on the loopback device.
6. A multipart upload with CRC64NVME ends with a checksum of checksums, where S3 has only that of the whole object; and tags and
   Object Lock of the upload are forgotten.
7. CloudFormation makes records of Route 53, but not the health checks that they hang on.
"""

import base64
import copy
import json
import re
import sys
import threading
import time
import urllib.parse
from datetime import datetime, timezone

import ministack.app as app
import ministack.services.cloudformation.provisioners as provisioners
import ministack.services.cloudwatch as cloudwatch
import ministack.services.eventbridge as eventbridge
import ministack.services.lambda_svc as functions
import ministack.services.route53 as route53
import ministack.services.s3 as s3
import ministack.services.stepfunctions as step_functions
from ministack.core.responses import get_account_id, get_region, new_uuid

# --- 1. booleans of XML ------------------------------------------------------------------------------------------------

_health_check_as_ministack_has_it = route53._build_health_check_el


def _with_booleans_of_xml(parent, check):
    config = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in check.get("config", {}).items()
    }
    return _health_check_as_ministack_has_it(parent, {**check, "config": config})


route53._build_health_check_el = _with_booleans_of_xml

# --- 2. events of alarms -----------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html

_actions_as_ministack_has_them = cloudwatch._dispatch_alarm_actions


def _with_event(alarm, old_state, new_state, reason):
    _actions_as_ministack_has_them(alarm, old_state, new_state, reason)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
    state = {"value": new_state, "reason": reason, "timestamp": now}
    if alarm.get("StateReasonData"):
        state["reasonData"] = alarm["StateReasonData"]
    dimensions = alarm.get("Dimensions") or []
    if isinstance(dimensions, list):
        dimensions = {one["Name"]: one["Value"] for one in dimensions}
    metric = {"namespace": alarm.get("Namespace"), "name": alarm.get("MetricName"), "dimensions": dimensions}
    stat = {"metric": metric, "period": alarm.get("Period"), "stat": alarm.get("Statistic")}
    detail = {
        "alarmName": alarm["AlarmName"],
        "configuration": {
            "description": alarm.get("AlarmDescription", ""),
            "metrics": [{"id": new_uuid(), "metricStat": stat, "returnData": True}],
        },
        "previousState": {"value": old_state},
        "state": state,
    }
    eventbridge._dispatch_event(
        {
            "EventId": new_uuid(),
            "Source": "aws.cloudwatch",
            "DetailType": "CloudWatch Alarm State Change",
            "Detail": json.dumps(detail),
            "Time": time.time(),
            "Resources": [alarm["AlarmArn"]],
            "Account": get_account_id(),
            "Region": get_region(),
        }
    )


cloudwatch._dispatch_alarm_actions = _with_event

# --- 3. embedded metrics -----------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

_logs_as_ministack_has_them = functions._emit_lambda_logs


def _with_embedded_metrics(func, request_id, log_text, *args, **kwargs):
    _logs_as_ministack_has_them(func, request_id, log_text, *args, **kwargs)
    for line in (log_text or "").splitlines():
        if '"_aws"' not in line:
            continue
        document = json.loads(line)
        metadata = document["_aws"]
        for directive in metadata["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = {name: document[name] for name in names}
                for metric in directive["Metrics"]:
                    cloudwatch._store_datum(
                        directive["Namespace"],
                        metric["Name"],
                        dimensions,
                        metadata["Timestamp"] / 1000,
                        metric.get("Unit", "None"),
                        document[metric["Name"]],
                        None,
                        None,
                        None,
                    )
        cloudwatch._evaluate_all_alarms()


functions._emit_lambda_logs = _with_embedded_metrics

# --- 4. Parallel states ------------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/step-functions/latest/dg/state-parallel.html
# https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html

_branches_as_ministack_has_them = step_functions._run_parallel_branches
_branch_as_ministack_has_it = step_functions._run_sub_machine


def _with_variables_of_its_own(states, start_at, input_data, execution, ctx):
    return _branch_as_ministack_has_it(states, start_at, input_data, execution, copy.deepcopy(ctx))


def _with_assign_and_output(state, raw_input, execution, ctx):
    results, following = _branches_as_ministack_has_them(state, raw_input, execution, ctx)
    if step_functions._state_query_language(state, ctx) != "JSONata":
        return results, following
    output = step_functions._apply_jsonata_output(state, raw_input, ctx, result=results, default=results)
    step_functions._apply_state_assign(state, raw_input, ctx, result=results)
    return output, following


step_functions._run_sub_machine = _with_variables_of_its_own
step_functions._run_parallel_branches = _with_assign_and_output

# --- 5. TLS ------------------------------------------------------------------------------------------------------------

_origin_as_ministack_sees_it = app.pin_request_origin


def _as_if_by_tls(source_ip, _secure):
    _origin_as_ministack_sees_it(source_ip, True)


app.pin_request_origin = _as_if_by_tls

# --- 6. multipart uploads ----------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html

_begin_as_ministack_has_it = s3._create_multipart_upload
_complete_as_ministack_has_it = s3._complete_multipart_upload
_checksum_as_ministack_has_it = s3._composite_checksum
_whole = threading.local()


def _times(matrix, vector):
    product = 0
    for row in matrix:
        if not vector:
            break
        if vector & 1:
            product ^= row
        vector >>= 1
    return product


def _after(crc, following, length):
    """CRC64NVME of two pieces from the CRC64NVME of each and the second one's length, as zlib's crc32_combine does it."""
    power = [s3._CRC64NVME_POLY] + [1 << bit for bit in range(63)]  # one bit of zeros
    for _ in range(3):
        power = [_times(power, row) for row in power]  # a byte of them
    while length:
        if length & 1:
            crc = _times(power, crc)
        power = [_times(power, row) for row in power]
        length >>= 1
    return crc ^ following


def _checksum_of_the_whole(algorithm, parts):
    return getattr(_whole, "checksum", None) or _checksum_as_ministack_has_it(algorithm, parts)


def _begin_with_tags_and_lock(bucket, key, headers):
    answer = _begin_as_ministack_has_it(bucket, key, headers)
    begun = re.search(rb"<UploadId>([^<]+)<", answer[2])
    if answer[0] == 200 and begun:
        s3._multipart_uploads[begun[1].decode()]["headers"] = dict(headers)
    return answer


def _complete_with_the_whole(bucket, key, body, query, headers=None):
    upload = s3._multipart_uploads.get(s3._qp(query, "uploadId"))
    if not upload or "headers" not in upload:
        return _complete_as_ministack_has_it(bucket, key, body, query, headers)
    named = sorted(int(number) for number in re.findall(rb"<PartNumber>(\d+)<", body))
    parts = [upload["parts"][number] for number in named if number in upload["parts"]]
    if upload["checksum_algorithm"] == "CRC64NVME" and parts:
        crc = 0
        for part in parts:
            of_part = int.from_bytes(base64.b64decode(part["checksums"]["CRC64NVME"]), "big")
            crc = _after(crc, of_part, part["size"])
        _whole.checksum = base64.b64encode(crc.to_bytes(8, "big")).decode()
    try:
        status, answered, text = _complete_as_ministack_has_it(bucket, key, body, query, headers)
    finally:
        _whole.checksum = None
    if status != 200:
        return status, answered, text
    version = answered.get("x-amz-version-id")
    versions = [one for one in s3._object_versions.get((bucket, key), []) if one["version_id"] == version]
    for record in [s3._ensure_bucket(bucket)["objects"][key], *versions]:
        if upload["checksum_algorithm"] == "CRC64NVME":
            record["checksum_type"] = "FULL_OBJECT"
    s3._apply_object_lock_from_headers(bucket, key, upload["headers"], version)
    tags = dict(urllib.parse.parse_qsl(upload["headers"].get("x-amz-tagging", "")))
    if tags:
        s3._object_tags[(bucket, key, version)] = tags
    return status, answered, text


s3._composite_checksum = _checksum_of_the_whole
s3._create_multipart_upload = _begin_with_tags_and_lock
s3._complete_multipart_upload = _complete_with_the_whole

# --- 7. health checks of stacks ----------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-route53-healthcheck.html

_NUMBERS = ("Port", "RequestInterval", "FailureThreshold", "HealthThreshold")
_BOOLEANS = ("MeasureLatency", "EnableSNI", "Inverted", "Disabled")


def _config_of(properties):
    config = dict(properties["HealthCheckConfig"])
    config |= {name: int(config[name]) for name in _NUMBERS if name in config}
    config |= {name: str(config[name]).lower() == "true" for name in _BOOLEANS if name in config}
    return config


def _make_health_check(logical_id, properties, stack_name):
    identity = new_uuid()
    check = {"id": identity, "caller_reference": f"{stack_name}-{logical_id}", "config": _config_of(properties), "version": 1}
    with route53._lock:
        route53._health_checks[identity] = check
        route53._hc_caller_refs[check["caller_reference"]] = identity
    return identity, {"HealthCheckId": identity}


def _change_health_check(identity, _old, properties, _stack_name):
    with route53._lock:
        check = route53._health_checks[identity]
        check["config"] = _config_of(properties)
        check["version"] += 1
    return identity, {"HealthCheckId": identity}


def _remove_health_check(identity, _properties):
    with route53._lock:
        check = route53._health_checks.pop(identity, {})
        route53._hc_caller_refs.pop(check.get("caller_reference", ""), None)


provisioners._RESOURCE_HANDLERS["AWS::Route53::HealthCheck"] = {
    "create": _make_health_check,
    "update": _change_health_check,
    "delete": _remove_health_check,
}

if __name__ == "__main__":
    sys.argv = ["ministack"]
    sys.exit(app.main())
