/* The smallest image: one program that says where it runs. */
#include <stdio.h>
#include <sys/utsname.h>

int main(void) {
    struct utsname name;
    puts("\nHello from a container!\n");
    puts("This message shows that your installation works: an image was pulled, its layers");
    puts("became a root file system, and a process was started in it.\n");
    if (uname(&name) == 0)
        printf("It runs on %s %s (%s).\n", name.sysname, name.release, name.machine);
    return 0;
}
