"""Runs moto's server with two things put right.

Seen on moto 5.2.5: Service Quotas knows the quotas of VPC and no others. Those here are as an account has them that has asked for
room beforehand; the names and codes are AWS's.
https://docs.aws.amazon.com/eks/latest/best-practices/known_limits_and_service_quotas.html

RDS asks moto's own key service for the key of a copy. The lab's keys are ministack's, so the lab's layer in front asks there.
"""

import sys

import moto.rds.models as rds
import moto.server
import moto.servicequotas.models as quotas

QUOTAS = {
    ("ec2", "L-1216C47A"): ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 640.0),
    ("ec2", "L-34B43A08"): ("All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 640.0),
    ("eks", "L-BD136A63"): ("Nodes per managed node group", 450.0),
    ("lambda", "L-B99A9384"): ("Concurrent executions", 1000.0),
}

_quota_as_moto_has_it = quotas.ServiceQuotasBackend.get_service_quota


def _with_more_quotas(self, service_code, quota_code):
    if (service_code, quota_code) not in QUOTAS:
        return _quota_as_moto_has_it(self, service_code, quota_code)
    name, value = QUOTAS[service_code, quota_code]
    return {"ServiceCode": service_code, "QuotaCode": quota_code, "QuotaName": name, "Value": value, "Adjustable": True}


quotas.ServiceQuotasBackend.get_service_quota = _with_more_quotas
rds.RDSBackend._validate_kms_key = lambda self, key: key

if __name__ == "__main__":
    moto.server.main(sys.argv[1:])
