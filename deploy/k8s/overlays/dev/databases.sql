-- Run once, when the volume is empty.
CREATE ROLE "registry" LOGIN;
CREATE DATABASE "registry" OWNER "registry";
CREATE ROLE "accounting" LOGIN;
CREATE DATABASE "accounting" OWNER "accounting";
CREATE ROLE "scheduler" LOGIN;
CREATE DATABASE "scheduler" OWNER "scheduler";
CREATE ROLE "datalab" LOGIN;
CREATE DATABASE "datalab" OWNER "datalab";
CREATE ROLE "skills" LOGIN;
CREATE DATABASE "skills" OWNER "skills";
CREATE ROLE "siteagent-lumi" LOGIN;
CREATE DATABASE "siteagent-lumi" OWNER "siteagent-lumi";
