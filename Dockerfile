# Image for Kubernetes (ray_job_kuberay.yaml): Ray with this project and its pinned packages, so that a pod starts at once.
#   docker build -t registry.example.org/mps-ams:0.1.0 . && docker push registry.example.org/mps-ams:0.1.0
FROM rayproject/ray:2.60.0-py311-gpu
COPY --chown=ray:users . /home/ray/mps-ams
RUN pip install --no-cache-dir -c /home/ray/mps-ams/constraints.txt '/home/ray/mps-ams[s3,gcs]'
WORKDIR /home/ray/mps-ams
