"""Run by moto's Python: `access.py ENDPOINT BUCKET` makes a bucket, a user who may do all, and a reader.

Prints the two users' keys as JSON. It takes 7 calls, after which the server is to check who asks.
"""

import json
import sys

import boto3

endpoint, bucket = sys.argv[1:]
options = {
    "endpoint_url": endpoint,
    "region_name": "us-east-1",
    "aws_access_key_id": "setup",
    "aws_secret_access_key": "setup",
}
boto3.client("s3", **options).create_bucket(Bucket=bucket)
iam = boto3.client("iam", **options)
keys = {}
for user, actions in {"writer": ["s3:*"], "reader": ["s3:Get*", "s3:List*"]}.items():
    iam.create_user(UserName=user)
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    keys[user] = [key["AccessKeyId"], key["SecretAccessKey"]]
print(json.dumps(keys))
